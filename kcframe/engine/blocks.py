"""The head's loss and gradient, one vertical at a time.

The sigmoid loss is a sum over classes, so no two verticals' logits are ever needed together: each
block's gradient is computed as soon as its loss is known, and the block is freed. Memory is
B x max N_v, and objectives and pacing are written as plain PyTorch on one block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kcframe.engine.boundary import ask, shaped
from kcframe.engine.model import Head
from kcframe.engine.progress import tally
from kcframe.errors import PluginError
from kcframe.interfaces.component import label
from kcframe.interfaces.objective import BlockTargets, Objective
from kcframe.interfaces.pacing import Pacing


@dataclass(frozen=True)
class Outcome:
    """terms: by name, float32 [M], divided by the batch size, before any weight. tallies: float32 [M, 4],
    `engine.progress.tally` of each vertical; None if the pacing does not ask for accuracies."""

    terms: dict[str, Tensor]
    tallies: Tensor | None


def backward_by_block(
    head: Head,
    objective: Objective,
    features: Tensor,
    targets: Callable[[int], BlockTargets],
    weights: Tensor | Mapping[str, Tensor] | None,
    batch_size: int,
) -> Outcome:
    """Run the head on features [B, D] and back-propagate the loss of eq. 2 (or the objective's own).

    targets: vertical -> its BlockTargets. weights: what the pacing's `weights` gave. batch_size: what the
    sum is divided by, the images of all workers together.
    Gradients are added to the head's parameters and, through `features`, to the backbone's.
    """
    shared = head.shared(features)
    # A float32 leaf, so that M blocks' gradients are not added up in a short format under autocast.
    leaf = _full(shared.detach()).requires_grad_(shared.requires_grad)
    num_verticals = len(head.sizes)
    terms: dict[str, Tensor] = {}
    tallies = []
    for vertical in range(num_verticals):
        logits = _full(head.block(vertical, leaf))
        asked = targets(vertical)
        named = _terms(objective, logits, asked)
        shares = ask(head.pacing, "image_weights", logits.detach(), asked)
        if shares is not None:
            shaped(head.pacing, "image_weights", (len(logits),), shares)
        loss = logits.new_zeros(())
        for name, term in named.items():
            weighed = term if shares is None else _weighed(term, shares, objective, head.pacing)
            weight = weights.get(name) if isinstance(weights, Mapping) else weights
            loss = loss + weighed.sum() * (1.0 if weight is None else weight[vertical])
            row = terms.setdefault(name, torch.zeros(num_verticals, device=features.device))
            row[vertical] = term.detach().sum() / batch_size
        (loss / batch_size).backward()
        if head.pacing.uses_accuracy:
            tallies.append(tally(logits.detach(), asked))
    if leaf.grad is not None:
        shared.backward(leaf.grad.to(shared.dtype))
    return Outcome(terms, torch.stack(tallies) if tallies else None)


def _terms(objective: Objective, logits: Tensor, targets: BlockTargets) -> dict[str, Tensor]:
    named = ask(objective, "forward", logits, targets)
    if not isinstance(named, dict) or not named:
        raise PluginError(f"{label(objective)}: forward() gave a {type(named).__name__}, not named terms")
    for name, term in named.items():
        scalar = isinstance(term, Tensor) and term.dim() == 0
        shaped(objective, f"the term '{name}' of forward", () if scalar else (len(logits),), term)
    return named


def _weighed(term: Tensor, shares: Tensor, objective: Objective, pacing: Pacing) -> Tensor:
    if term.dim() == 0:
        raise PluginError(
            f"{label(pacing)} weighs images, but {label(objective)} sums its terms over them: "
            "they would have to be [B]"
        )
    return term * shares


def _full(tensor: Tensor) -> Tensor:
    """Short formats become float32; float32 and float64 stay."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
