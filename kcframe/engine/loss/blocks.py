"""The head's loss and gradient, one vertical at a time (eq. 2 to 4).

The sigmoid loss is a sum over classes, so no two verticals' logits are ever needed together: each
block's gradient is computed as soon as its loss is known, and the block is freed. Memory is
B x max N_v, and objectives and pacing are written as plain PyTorch on one block. Where both give their
gradients in closed form (the built-in ones do), autograd is left out of the block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kcframe.engine.loss import closed_form
from kcframe.engine.loss.closed_form import Workspace
from kcframe.engine.model import Head
from kcframe.engine.plugin_calls import call_plugin, named_terms, shaped
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

    def plus(self, other: Outcome) -> Outcome:
        """Of both passes together."""
        terms = {name: term + other.terms[name] for name, term in self.terms.items()}
        if self.tallies is None or other.tallies is None:
            return Outcome(terms, None)
        return Outcome(terms, self.tallies + other.tallies)

    def loss_by_vertical(self) -> Tensor:
        """float32 [M]: the sum of the terms."""
        return torch.stack(list(self.terms.values())).sum(0)

    def loss(self) -> float:
        """The sum of all terms over all verticals."""
        return sum(float(term.sum()) for term in self.terms.values())


def backward_by_block(
    head: Head,
    objective: Objective,
    features: Tensor,
    targets: Callable[[int], BlockTargets],
    weights: Tensor | Mapping[str, Tensor] | None,
    *,
    batch_size: int,
    workspace: Workspace | None = None,
    filter_error: float | None = None,
) -> Outcome:
    """Run the head on features [B, D] and back-propagate the loss of eq. 2 (or the objective's own).

    targets: vertical -> its BlockTargets. weights: what the pacing's `weights` gave. batch_size: what the
    sum is divided by, the images of all workers together. workspace: memory kept from step to step.
    filter_error: `train.gradient_filter`; None: off.
    Gradients are added to the head's parameters and, through `features`, to the backbone's.
    """
    shared = head.shared(features)
    # A float32 leaf, so that M blocks' gradients are not added up in a short format under autocast.
    leaf = _full(shared.detach()).requires_grad_(shared.requires_grad)
    num_verticals = len(head.sizes)
    terms: dict[str, Tensor] = {}
    tallies = []
    workspace = workspace or Workspace()
    for vertical in range(num_verticals):
        of_block, share = targets(vertical), _shares(weights, vertical, batch_size)
        if closed_form.knows_closed_form(head, objective, vertical):
            named, counted = closed_form.backward(
                head,
                objective,
                leaf,
                vertical,
                of_block,
                share=share,
                workspace=workspace,
                filter_error=filter_error,
            )
        else:
            named, counted = _by_autograd(head, objective, leaf, vertical, of_block, share=share)
        if isinstance(weights, Mapping) and (strange := sorted(set(weights) - set(named))):
            raise PluginError(
                f"{label(head.pacing)}: weights() weighs the term '{strange[0]}', which {label(objective)} "
                f"does not have: it has {', '.join(named)}"
            )
        for name, term in named.items():
            row = terms.setdefault(name, torch.zeros(num_verticals, device=features.device))
            row[vertical] = term.sum() / batch_size
        if counted is not None:
            tallies.append(counted)
    if leaf.grad is not None:
        shared.backward(leaf.grad.to(shared.dtype))
    return Outcome(terms, torch.stack(tallies) if tallies else None)


def _shares(
    weights: Tensor | Mapping[str, Tensor] | None, vertical: int, batch_size: int
) -> Callable[[str], Tensor | float]:
    """The name of a term -> what it is multiplied by in this vertical's part of the loss."""

    def share(name: str) -> Tensor | float:
        weight = weights.get(name) if isinstance(weights, Mapping) else weights
        # In float64: it scales blocks of any format, and 1 / B is rounded in a short one.
        return (1.0 if weight is None else weight[vertical].double()) / batch_size

    return share


def _by_autograd(
    head: Head,
    objective: Objective,
    shared: Tensor,
    vertical: int,
    targets: BlockTargets,
    *,
    share: Callable[[str], Tensor | float],
) -> tuple[dict[str, Tensor], Tensor | None]:
    """As `closed_form.backward`, for pacing and objectives that are plain PyTorch."""
    logits = _full(head.block(vertical, shared))
    named = named_terms(objective, "forward", len(logits), call_plugin(objective, "forward", logits, targets))
    image_weights = call_plugin(head.pacing, "image_weights", logits.detach(), targets)
    if image_weights is not None:
        shaped(head.pacing, "image_weights", (len(logits),), image_weights)
    loss = logits.new_zeros(())
    for name, term in named.items():
        weighed = term if image_weights is None else _weighed(term, image_weights, objective, head.pacing)
        loss = loss + weighed.sum() * share(name)
    loss.backward()
    counted = tally(logits.detach(), targets) if head.pacing.uses_accuracy else None
    return {name: term.detach() for name, term in named.items()}, counted


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
