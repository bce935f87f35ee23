"""How training that cannot go on is told: a loss, or weights, that are no longer finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kcframe.errors import TrainingError
from kcframe.recipe.schema import Train


def refuse_loss(
    name: str, terms: Mapping[str, Tensor], verticals: Sequence[str], step: int, train: Train
) -> None:
    """TrainingError for a loss that is not finite. name: of the stage. terms: float [M] each."""
    bad = {verticals[v] for term in terms.values() for v in (~term.isfinite()).nonzero().flatten().tolist()}
    raise TrainingError(
        f"{name}: the loss is not finite at step {step} (in {', '.join(sorted(bad)[:5])}); {_advice(train)}"
    )


def refuse_broken_weights(name: str, module: nn.Module, step: int, train: Train) -> None:
    """TrainingError if a parameter is not finite. A step's loss is that of before its update, so it does not
    tell what the update broke."""
    if (broken := first_not_finite(module.named_parameters())) is not None:
        raise TrainingError(f"{name}: {broken} is not finite after step {step}; {_advice(train)}")


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor with a number that is nan or infinite; None if there is none."""
    for name, tensor in tensors:
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # Both ends are nan if anything is: no copy of a large matrix is needed.
        if not bool(torch.stack(tensor.detach().aminmax()).isfinite().all()):
            return name
    return None


def _advice(train: Train) -> str:
    return (
        f"the last checkpoint is kept. Lower train.learning_rate, now {train.learning_rate}, or set "
        "train.clip_gradient_norm"
    )
