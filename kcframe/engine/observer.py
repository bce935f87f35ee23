"""Who is told what a stage does, and says when it should stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kcframe.engine.evaluation.evaluate import Evaluation


class Observer(Protocol):
    """Told what a stage does while it does it: a display, a message board, a test."""

    def step(self, step: int, num_steps: int, loss: float) -> None:
        """`step` of `num_steps` is finished. loss: nan where a stage's steps have none."""

    def evaluated(self, epoch: int, evaluation: Evaluation) -> None:
        """The network was measured after an epoch, counted from 1."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def should_stop(self) -> bool:
        """Whether the stage should save its work and raise Interrupted; asked after every step."""


class Silent:
    """An observer that shows nothing and never stops a stage."""

    def step(self, step: int, num_steps: int, loss: float) -> None: ...

    def evaluated(self, epoch: int, evaluation: Evaluation) -> None: ...

    def say(self, text: str) -> None: ...

    def should_stop(self) -> bool:
        return False
