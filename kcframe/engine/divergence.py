"""How training that cannot go on is told: a loss, or weights, that are no longer finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    for parameter_name, parameter in module.named_parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        # Both ends are nan if anything is: no copy of a large matrix is needed.
        if not bool(torch.stack(parameter.detach().aminmax()).isfinite().all()):
            raise TrainingError(f"{name}: {parameter_name} is not finite after step {step}; {_advice(train)}")


def _advice(train: Train) -> str:
    return (
        f"the last checkpoint is kept. Lower train.learning_rate, now {train.learning_rate}, or set "
        "train.clip_gradient_norm"
    )
