"""What every stage is: plain data that can be sent to another process, and knows how to run there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from kcframe.errors import RunDirError
from kcframe.interfaces.data import DataSource
from kcframe.recipe.differences import differences
from kcframe.recipe.schema import Execution, Recipe
from kcframe.stages.context import Context
from kcframe.stages.settings import as_today, fingerprint
from kcframe.storage.layout import RESULT, STAGE
from kcframe.storage.run_dir import RunDir


class Workers(NamedTuple):
    """How many processes work on a stage together: a fixed number if both are equal."""

    least: int
    most: int

    @property
    def alone(self) -> bool:
        """Whether one process does it all, and no group is needed."""
        return self.least == self.most == 1


class Reads(NamedTuple):
    """Pictures that a stage reads, for what reading costs. reader: whose share it is. split: 'train' or
    'test'. images: int64, indices of the split. times: how often each is read."""

    reader: str
    split: str
    images: Tensor
    times: int


@dataclass(frozen=True)
class Stage(ABC):
    """A piece of a run that is finished as a whole, in a folder of its own.

    A subclass is a frozen dataclass of plain values, so that it can be sent to another process. needs: the
    folders of the stages that must be finished before this one begins.
    """

    always_again: ClassVar[bool] = False
    """True: every run does it again, because only its work shows whether anything is left to do."""

    needs: tuple[str, ...] = ()

    @property
    @abstractmethod
    def folder(self) -> str:
        """Below the run directory; each stage of a run has another."""

    @abstractmethod
    def __str__(self) -> str:
        """What people call it: 'arm +D', 'specialist birds'."""

    @abstractmethod
    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The part of a recipe that decides what this stage produces, as JSON."""

    @abstractmethod
    def workers(self, execution: Execution) -> Workers:
        """How many processes work on it together."""

    @abstractmethod
    def run(self, context: Context) -> None:
        """Do the work, or go on with it, and write `RESULT` as the last file. All workers call it.

        Raises Interrupted, with the work saved, once the observer says that it should stop.
        """

    @abstractmethod
    def reads(self, recipe: Recipe, source: DataSource) -> Iterable[Reads]:
        """The pictures that it reads from the beginning to the end."""

    def is_finished(self, run_dir: RunDir) -> bool:
        """Whether its result is there."""
        return run_dir.exists(f"{self.folder}/{RESULT}")

    def refuse_other_settings(self, recipe: Recipe, run_dir: RunDir) -> None:
        """RunDirError if it was begun here with other settings, naming each difference."""
        name = f"{self.folder}/{STAGE}"
        if run_dir.exists(name):
            before, now = run_dir.read_json(name)["settings"], self.settings(recipe)
            refuse_changes(run_dir, f"{self}, trained", before, now, run_dir.shown(self.folder))

    def begin(self, recipe: Recipe, run_dir: RunDir) -> None:
        """Write down with which settings it is begun."""
        settings = self.settings(recipe)
        about = {"stage": str(self), "fingerprint": fingerprint(settings), "settings": settings}
        run_dir.write_json(f"{self.folder}/{STAGE}", about)


def refuse_changes(
    run_dir: RunDir, what: str, before: dict[str, Any], now: dict[str, Any], to_delete: str
) -> None:
    """RunDirError if the run directory holds `what` with other settings than now, naming each difference.

    before: as an earlier kcframe may have written it; read through today's schema, defaults filled in.
    """
    before = as_today(before)
    if fingerprint(before) == fingerprint(now):
        return
    changes = [f"  {path}: {old!r} -> {new!r}" for path, old, new in differences(before, now)]
    raise RunDirError(
        f"{run_dir}: holds {what} with other settings:\n"
        + "\n".join(changes[:8])
        + f"\ngive another --run-dir, or delete {to_delete} to begin anew"
    )
