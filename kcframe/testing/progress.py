"""A pacing's view of training, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kcframe.engine.loss.pacing_checks import weights_of
from kcframe.interfaces.pacing import Pacing, Progress

NUM_STEPS, NUM_EPOCHS = 100, 10


def progress_at(
    step: int,
    loss: Tensor | Sequence[float],
    *,
    accuracy: Tensor | Sequence[float] | None = None,
    teacher_accuracy: Tensor | Sequence[float] | None = None,
    num_steps: int = NUM_STEPS,
    num_epochs: int = NUM_EPOCHS,
) -> Progress:
    """What the engine tells a pacing after `step` of `num_steps` steps, all epochs being equally long.

    loss, accuracy, teacher_accuracy: [M], a number per vertical, see `Progress`; nan: not known yet.
    """
    return Progress(
        step=step,
        num_steps=num_steps,
        epoch=step * num_epochs / num_steps,
        num_epochs=num_epochs,
        loss=_floats(loss),
        accuracy=None if accuracy is None else _floats(accuracy),
        teacher_accuracy=None if teacher_accuracy is None else _floats(teacher_accuracy),
    )


def checked_weights(pacing: Pacing, progress: Progress) -> Tensor | Mapping[str, Tensor] | None:
    """The pacing's `weights` for the coming step, as a step gets them.

    Returns float [M], or one such tensor for each named term, or None for all 1. Raises PluginError, which
    names the pacing, unless they are finite and not negative, one for each vertical.
    """
    return weights_of(pacing, progress)


def _floats(numbers: Tensor | Sequence[float]) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.float32)
