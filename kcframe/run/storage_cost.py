"""What a recipe's run asks of the storage that its pictures lie in: requests and bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from kcframe.interfaces.data import DataSource, ImageSet, ReadCost
from kcframe.recipe.schema import Recipe
from kcframe.stages.plan import plan_stages

GIGA = 10**9  # as storage is billed


@dataclass
class Reading:
    """pictures: that are read, counting each time. requests, bytes: to and from the storage."""

    pictures: int = 0
    requests: float = 0.0
    bytes: float = 0.0


class _Split:
    """One split's pictures, and which of them a machine has read already."""

    def __init__(self, images: ImageSet):
        cost = images.read_cost()
        self.is_read = cost is not None
        self.cost = cost or ReadCost(0.0, 0.0, 0.0)
        self.bytes = len(images) * self.cost.bytes
        self.had = torch.zeros(len(images), dtype=torch.bool)

    def read(self, indices: Tensor, times: int, reading: Reading, cached: bool) -> None:
        reading.pictures += len(indices) * times
        asked = len(indices) * times
        if cached:
            asked = int((~self.had[indices]).sum())
            self.had[indices] = True
        reading.requests += asked * self.cost.requests
        reading.bytes += asked * self.cost.bytes


def reading_of(recipe: Recipe, source: DataSource) -> dict[str, Reading] | None:
    """For all specialists together and for each arm, in the order of a run; None if the source makes its
    pictures. What a machine keeps is counted where it is first read: as if one machine did all."""
    splits = {name: _Split(source.split(name)) for name in ("train", "test")}
    if not all(split.is_read for split in splits.values()):
        return None
    cached = sum(split.bytes for split in splits.values()) <= min(s.cost.room for s in splits.values())
    by_reader: dict[str, Reading] = {}
    for stage in plan_stages(recipe, source.taxonomy):
        for reads in stage.reads(recipe, source):
            reading = by_reader.setdefault(reads.reader, Reading())
            splits[reads.split].read(reads.images, reads.times, reading, cached)
    return by_reader


def reading_table(by_reader: dict[str, Reading]) -> Table:
    """A row a reader, and their sum."""
    table = Table(title="reading pictures", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("", "pictures", "requests", "GB"):
        table.add_column(heading, justify="right" if heading else "left")
    total = Reading(*(sum(getattr(r, key) for r in by_reader.values()) for key in vars(Reading())))
    for name, reading in [*by_reader.items(), ("all", total)]:
        table.add_row(name, f"{reading.pictures:,}", f"{reading.requests:,.0f}", _gigabytes(reading.bytes))
    return table


def _gigabytes(count: float) -> str:
    amount = count / GIGA
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"
