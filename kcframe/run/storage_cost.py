"""What a recipe's run asks of the storage that its pictures lie in: requests and bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from kcframe.build.teacher_cache import asking
from kcframe.engine.data.split import parts_of
from kcframe.interfaces.data import DataSource, ImageSet, known_images
from kcframe.recipe.schema import Recipe
from kcframe.run.pipeline import plan
from kcframe.stages.stages import classes_of

GIGA = 10**9  # as storage is billed
ALL = "specialists"
OUTPUTS = "teacher outputs"


@dataclass
class Reading:
    """pictures: that are read, counting each time. requests, bytes: to and from the storage."""

    pictures: int = 0
    requests: float = 0.0
    bytes: float = 0.0


class _Split:
    """One split's pictures, and which of them a machine has read already."""

    def __init__(self, images: ImageSet):
        self.cost = images.read_cost()
        self.bytes = len(images) * self.cost.bytes if self.cost else 0.0
        self.had = torch.zeros(len(images), dtype=torch.bool)

    def read(self, indices: Tensor, times: int, reading: Reading, kept: bool) -> None:
        reading.pictures += len(indices) * times
        asked = len(indices) * times
        if kept:
            asked = int((~self.had[indices]).sum())
            self.had[indices] = True
        reading.requests += asked * self.cost.requests
        reading.bytes += asked * self.cost.bytes


def reading_of(recipe: Recipe, source: DataSource) -> dict[str, Reading] | None:
    """For all specialists together and for each arm, in the order of a run; None if the source makes its
    pictures. What a machine keeps is counted where it is first read: as if one machine did all."""
    splits = {name: _Split(source.split(name)) for name in ("train", "test")}
    if any(split.cost is None for split in splits.values()):
        return None
    kept = sum(split.bytes for split in splits.values()) <= min(s.cost.room for s in splits.values())
    found: dict[str, Reading] = {}
    for stage in plan(recipe, source.taxonomy):
        if stage.kind == "outputs":
            _read_for_teachers(recipe, source, splits["train"], found, kept)
            continue
        is_arm = stage.kind == "arm"
        train = recipe.arms[stage.name].train if is_arm else recipe.specialists.train
        learned, measured = parts_of(recipe, source, classes_of(stage, source.taxonomy))
        evaluations = sum(train.evaluates_after(epoch) for epoch in range(1, train.epochs + 1))
        reading = found.setdefault(stage.name if is_arm else ALL, Reading())
        for part, times in ((learned, train.epochs), (measured, evaluations)):
            split = "train" if part.images is source.split("train") else "test"
            splits[split].read(part.indices, times, reading, kept)
    return found


def _read_for_teachers(
    recipe: Recipe, source: DataSource, split: _Split, found: dict[str, Reading], kept: bool
) -> None:
    """Before the arms, each picture in each epoch, once for each teacher: as if each asked one."""
    if OUTPUTS in found:
        return  # pieces share one work
    epochs = max(recipe.arms[name].train.epochs for name in asking(recipe))
    labelled = known_images(source.split("train").labels.likely())
    split.read(labelled, epochs, found.setdefault(OUTPUTS, Reading()), kept)


def reading_table(found: dict[str, Reading]) -> Table:
    """A row a reader, and their sum."""
    table = Table(title="reading pictures", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("", "pictures", "requests", "GB"):
        table.add_column(heading, justify="right" if heading else "left")
    total = Reading(*(sum(getattr(r, key) for r in found.values()) for key in vars(Reading())))
    for name, reading in [*found.items(), ("all", total)]:
        table.add_row(name, f"{reading.pictures:,}", f"{reading.requests:,.0f}", _gigabytes(reading.bytes))
    return table


def _gigabytes(count: float) -> str:
    amount = count / GIGA
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"
