"""The interface of backends: where stages run, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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


def stages_failed(failures: Mapping[str, str], num_stages: int, num_blocked: int) -> str:
    """What to say of stages that cannot be trained. failures: a stage as people call it -> why."""
    lines = [f"  {why if why.startswith(name) else f'{name}: {why}'}" for name, why in failures.items()]
    if num_blocked:
        lines.append(f"  and {num_blocked} stages that need them did not begin")
    return (
        f"{len(failures)} of {num_stages} stages failed, the others are kept:\n"
        + "\n".join(lines)
        + "\nonce that is mended, the same command trains only what is missing"
    )


class Backend(ABC):
    """Runs stages, each after those that it needs."""

    @abstractmethod
    def run(self, stages: Sequence[Stage], recipe: Recipe, run_dir: RunDir, observer: RunObserver) -> None:
        """Run every stage to its end. stages: none stands before one that it needs.

        A stage that cannot be trained (TrainingError) stops only those that need it; when all others are
        finished, a TrainingError names it. Raises Interrupted once the observer says that it should stop and
        work is saved.
        """
