"""A block's loss and gradients without autograd, where pacing and objective know theirs in closed form.

Autograd would keep and read again some ten copies of the block [B, N_v]; here there is one (on a GPU two).
What is done to it is done to a few images at a time, while they are in the cache, and their gradients take
their logits' place. The classifier's three matrix products are then nearly all that is left. Shapes: B batch,
H hidden units, N_v classes of the vertical.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from kcframe.engine.loss.gradient_filter import rows_that_matter
from kcframe.engine.model import Head
from kcframe.engine.plugin_calls import call_for_tensor, call_plugin, named_terms
from kcframe.engine.progress import tally
from kcframe.interfaces.objective import BlockTargets, Objective
from kcframe.interfaces.pacing import Pacing

TILE = 2**19
"""Logits that are worked on at a time on a CPU: 2 MiB of float32 and as much of their gradients."""


class Workspace:
    """Memory that every block and every step needs again: getting it anew costs as much as writing it."""

    def __init__(self) -> None:
        self._blocks: dict[str, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}

    def block(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """[rows, columns], with anything in it; the same memory for all blocks."""
        held = self._blocks.get(name)
        if held is None or held.numel() < rows * columns or held.dtype != like.dtype:
            held = self._blocks[name] = like.new_empty(rows * columns)
        return held[: rows * columns].view(rows, columns)

    def gradient(self, parameter: Tensor) -> Tensor:
        """Of the parameter's shape, with anything in it; its own memory, which its `grad` may keep."""
        held = self._gradients.get(id(parameter))
        if held is None or held.shape != parameter.shape or held.device != parameter.device:
            held = self._gradients[id(parameter)] = torch.empty_like(parameter)
        return held


def knows_closed_form(head: Head, objective: Objective, vertical: int) -> bool:
    """Whether a block can go this way."""
    pacing = head.pacing
    paced = pacing.has_closed_form or type(pacing).forward is Pacing.forward
    # Weights an image need the paced logits before the objective has seen them.
    plain = type(pacing).image_weights is Pacing.image_weights
    linear = type(head.classifiers[vertical]) is nn.Linear
    return paced and objective.has_closed_form and plain and linear


def backward(
    head: Head,
    objective: Objective,
    shared: Tensor,
    vertical: int,
    targets: BlockTargets,
    *,
    share: Callable[[str], Tensor | float],
    workspace: Workspace,
    filter_error: float | None,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Add a block's gradients to the parameters and to `shared`, as autograd would.

    shared: [B, D'], a leaf. share: the name of a term -> what it is multiplied by in the loss. filter_error:
    see `gradient_filter`; None: every image counts. Returns the terms, each [B], and the block's `tally`
    (None if the pacing does not ask for accuracies).
    """
    classifier, pacing = _linear(head, vertical), head.pacing
    filtered = filter_error is not None and head.expander.rowwise
    dtype = _format_of_products(shared)
    with torch.set_grad_enabled(shared.requires_grad or not filtered):
        hidden = _hidden(head, vertical, shared)
    with torch.no_grad(), torch.autocast(shared.device.type, enabled=False):
        fixed, weight = hidden.detach().to(dtype), classifier.weight.to(dtype)
        block = _logits(fixed, weight, classifier.bias, workspace)
        parts: list[dict[str, Tensor]] = []
        tallies: list[Tensor] = []
        tiles = _tiles(targets, block)
        in_turn = len(tiles) > 1
        for rows, aimed in tiles:
            paced = block[rows]
            gradient = workspace.block("gradient", len(paced), paced.shape[1], paced)
            saved = call_plugin(pacing, "forward_", paced, vertical)
            terms = call_plugin(objective, "gradient", paced, aimed, share, gradient)
            named = named_terms(objective, "gradient", len(paced), terms)
            # Copies: a term may be a view of the logits, whose place their gradients take.
            parts.append({name: term.clone() for name, term in named.items()})
            if pacing.uses_accuracy:
                tallies.append(tally(paced, aimed))
            call_plugin(pacing, "pull_back_", gradient, paced, vertical, saved)
            if in_turn:
                paced.copy_(gradient)
        if in_turn:
            gradient = block
        if classifier.bias is not None and classifier.bias.requires_grad:
            _add(classifier.bias, gradient.sum(0))
        matter = None
        if filter_error is not None and head.expander.rowwise:
            matter = rows_that_matter(gradient, fixed, filter_error)
        sent = gradient if matter is None else gradient[matter]
        sent = sent.to(dtype)
        if classifier.weight.requires_grad:
            _add_product(classifier.weight, sent, fixed if matter is None else fixed[matter], workspace)
        back = (sent @ weight).to(hidden.dtype)
    if matter is not None:
        hidden = _hidden(head, vertical, shared[matter])
    if hidden.requires_grad and len(back):
        hidden.backward(back)
    terms = {name: torch.cat([part[name].view(-1) for part in parts]) for name in parts[0]}
    return terms, torch.stack(tallies).sum(0) if tallies else None


def _format_of_products(shared: Tensor) -> torch.dtype:
    """Autocast's, where it is on; everything else is in float32 (float64 in, float64 out)."""
    device = shared.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else shared.dtype


def _linear(head: Head, vertical: int) -> nn.Linear:
    """A vertical's classifier, which `knows_closed_form` has found to be one."""
    return cast(nn.Linear, head.classifiers[vertical])


def _hidden(head: Head, vertical: int, shared: Tensor) -> Tensor:
    features = _linear(head, vertical).in_features
    return call_for_tensor(head.expander, "block", (len(shared), features), vertical, shared)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, workspace: Workspace) -> Tensor:
    """[B, N_v] in float32 or float64, in the workspace."""
    if hidden.dtype in (torch.float32, torch.float64):
        logits = workspace.block("logits", len(hidden), len(weight), hidden)
        if bias is None:
            return torch.mm(hidden, weight.t(), out=logits)
        return torch.addmm(bias, hidden, weight.t(), out=logits)
    logits = workspace.block("logits", len(hidden), len(weight), hidden.new_empty(0, dtype=torch.float32))
    logits.copy_(hidden @ weight.t())
    return logits if bias is None else logits.add_(bias)


def _tiles(targets: BlockTargets, logits: Tensor) -> list[tuple[slice, BlockTargets]]:
    """A block's images a few at a time, with their targets; on a GPU all at once."""
    num, width = logits.shape
    height = num if logits.is_cuda else max(1, TILE // width)
    if height >= num:
        return [(slice(0, num), targets)]
    starts = list(range(0, num, height))
    return [
        (slice(start, min(start + height, num)), aimed)
        for start, aimed in zip(starts, targets.in_turn(starts), strict=True)
    ]


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient.to(parameter.dtype)
    else:
        parameter.grad += gradient


def _add_product(weight: Tensor, gradient: Tensor, hidden: Tensor, workspace: Workspace) -> None:
    """weight.grad += gradient^T @ hidden."""
    if gradient.dtype != weight.dtype or weight.grad is not None:
        _add(weight, gradient.t() @ hidden)
    else:
        weight.grad = torch.mm(gradient.t(), hidden, out=workspace.gradient(weight))
