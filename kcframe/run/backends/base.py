"""The interface of backends: where stages run, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from kcframe.engine.trainer import Listener
from kcframe.recipe.schema import Recipe
from kcframe.stages.stages import Stage
from kcframe.storage.run_dir import RunDir


class Watcher(Protocol):
    """Told what is to be done and which stages begin and end, perhaps several at once; listens to each."""

    def plan(self, stages: Sequence[Stage], done: int) -> None: ...

    def begin(self, stage: Stage) -> Listener: ...

    def end(self, stage: Stage) -> None: ...

    def say(self, text: str) -> None: ...


class Backend(ABC):
    """Runs stages that do not need each other."""

    @abstractmethod
    def run(
        self,
        stages: Sequence[Stage],
        recipe: Recipe,
        run_dir: RunDir,
        watcher: Watcher,
        should_stop: Callable[[], bool],
    ) -> None:
        """Run every stage to its end. Raises Interrupted once `should_stop` says so and work is saved."""
