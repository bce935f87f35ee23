"""The interface of backends: where stages run, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from kcframe.engine.observer import Observer
from kcframe.recipe.schema import Recipe
from kcframe.stages.base import Stage
from kcframe.storage.run_dir import RunDir


class RunObserver(Protocol):
    """Told what is to be done and which stages begin and end, perhaps several at once."""

    def plan(self, stages: Sequence[Stage], done: int) -> None:
        """What there is to do, and how many of these stages are finished already."""

    def begin(self, stage: Stage) -> Observer:
        """A stage begins; returns who is told of it."""

    def end(self, stage: Stage) -> None:
        """A stage is finished."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def should_stop(self) -> bool:
        """Whether everything should save its work and end."""


class Backend(ABC):
    """Runs stages, each after those that it needs."""

    @abstractmethod
    def run(self, stages: Sequence[Stage], recipe: Recipe, run_dir: RunDir, observer: RunObserver) -> None:
        """Run every stage to its end. stages: none stands before one that it needs.

        Raises Interrupted once the observer says that it should stop and work is saved.
        """
