"""The head's loss and gradient, one vertical at a time.

The sigmoid loss is a sum over classes, so no two verticals' logits are ever needed together: each
block's gradient is computed as soon as its loss is known, and the block is freed. Memory is
B x max N_v, and objectives and pacing are written as plain PyTorch on one block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kcframe.engine.model import Head
from kcframe.interfaces.objective import BlockTargets, Objective


def backward_by_block(
    head: Head,
    objective: Objective,
    features: Tensor,
    targets: Callable[[int], BlockTargets],
    weights: Tensor | None,
    batch_size: int,
) -> dict[str, Tensor]:
    """Run the head on features [B, D] and back-propagate the loss of eq. 2 (or the objective's own).

    targets: vertical -> its BlockTargets. weights: float [M], or None for all 1. batch_size: what the
    sum is divided by, the images of all workers together.
    Gradients are added to the head's parameters and, through `features`, to the backbone's.
    Returns each named term as float32 [M], divided by batch_size, before the weights.
    """
    shared = head.shared(features)
    # A float32 leaf, so that M blocks' gradients are not added up in a short format under autocast.
    leaf = _full(shared.detach()).requires_grad_(shared.requires_grad)
    num_verticals = len(head.sizes)
    terms: dict[str, Tensor] = {}
    for vertical in range(num_verticals):
        logits = _full(head.block(vertical, leaf))
        named = objective(logits, targets(vertical))
        loss = torch.stack(list(named.values())).sum() / batch_size
        if weights is not None:
            loss = loss * weights[vertical]
        loss.backward()
        for name, value in named.items():
            row = terms.setdefault(name, torch.zeros(num_verticals, device=features.device))
            row[vertical] = value.detach() / batch_size
    if leaf.grad is not None:
        shared.backward(leaf.grad.to(shared.dtype))
    return terms


def _full(tensor: Tensor) -> Tensor:
    """Short formats become float32; float32 and float64 stay."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
