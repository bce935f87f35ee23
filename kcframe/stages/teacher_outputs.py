"""Teachers are asked about all training pictures once, for every arm: a piece of that work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kcframe.assembly.arms import Arm, asking_teachers, resolve_arm
from kcframe.assembly.teacher_cache import cache_needs, store_outputs, view_of
from kcframe.interfaces.data import DataSource, known_images
from kcframe.recipe.schema import Execution, Recipe, StudentSpec
from kcframe.stages.base import Reads, Stage, Workers
from kcframe.stages.context import Context
from kcframe.storage.layout import RESULT, outputs_folder
from kcframe.storage.run_dir import RunDir


@dataclass(frozen=True, kw_only=True)
class TeacherOutputsStage(Stage):
    """Stores a share of what the teachers of some arms say: piece `piece`, from 0, of `pieces`."""

    always_again = True  # whether anything is missing is known only when specialists are trained

    piece: int
    pieces: int
    arms: dict[str, StudentSpec] = field(compare=False, repr=False)

    @property
    def folder(self) -> str:
        return outputs_folder(f"{self.piece + 1} of {self.pieces}")

    def __str__(self) -> str:
        return f"teacher outputs {self.piece + 1} of {self.pieces}"

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """Nothing: the store knows itself what each of its files is."""
        return {}

    def workers(self, execution: Execution) -> Workers:
        return Workers(1, 1)

    def begin(self, recipe: Recipe, run_dir: RunDir) -> None: ...

    def run(self, context: Context) -> None:
        recipe, source = context.recipe, context.source
        wanted = cache_needs(recipe, source, context.run_dir, self._asking())
        written = store_outputs(
            recipe,
            wanted,
            view_of(recipe, source),
            context.world,
            context.observer,
            share=(self.piece, self.pieces),
        )
        result = {"stage": str(self), "written": written, "kept": wanted.listed()}
        context.run_dir.write_json(f"{self.folder}/{RESULT}", result)

    def reads(self, recipe: Recipe, source: DataSource) -> Iterable[Reads]:
        """Each picture in each epoch, once for each teacher: as if each asked one. Pieces share one work."""
        if self.piece == 0:
            epochs = max(arm.spec.train.epochs for arm in self._asking().values())
            labelled = known_images(source.split("train").labels.likely())
            yield Reads("teacher outputs", "train", labelled, epochs)

    def _asking(self) -> dict[str, Arm]:
        return asking_teachers({name: resolve_arm(name, spec) for name, spec in self.arms.items()})
