"""A batch's targets: sparse, in the verticals' order, so that each block's are one slice of them."""

from __future__ import annotations

import torch
from torch import Tensor

from kcframe.interfaces.objective import BlockTargets, SparseTargets
from kcframe.taxonomy import Taxonomy


class SlotIndex:
    """The taxonomy's class -> slots map as tensors on a device."""

    def __init__(self, taxonomy: Taxonomy, device: torch.device):
        self.sizes = taxonomy.sizes
        self.offsets = torch.from_numpy(taxonomy.offsets).to(device)
        self.class_slots = torch.from_numpy(taxonomy.class_slots).to(device)
        self.first = torch.from_numpy(taxonomy.class_slot_offsets).to(device)
        self.one_each = taxonomy.num_slots == taxonomy.num_classes
        verticals = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))
        self.slot_verticals = verticals.to(device)
        self.verticals = torch.arange(len(self.sizes) + 1, device=device)

    def by_class(self, values: Tensor) -> Tensor:
        """float [M], a value a vertical -> [N], a value a class: the largest of its verticals'."""
        highest = torch.full((len(self.first) - 1,), -torch.inf, device=values.device, dtype=values.dtype)
        owners = torch.repeat_interleave(torch.arange(len(highest), device=values.device), self.first.diff())
        return highest.scatter_reduce_(0, owners, values[self.slot_verticals[self.class_slots]], "amax")

    def spread(self, rows: Tensor, classes: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(row, class, value) triples -> (vertical, row, slot, value) ones, sorted by vertical and row.

        A class in several verticals becomes one triple a vertical.
        """
        classes = classes.long()
        if self.one_each:
            slots = self.class_slots[classes]
        else:
            counts = self.first[classes + 1] - self.first[classes]
            which = torch.repeat_interleave(torch.arange(len(classes), device=classes.device), counts)
            before = counts.cumsum(0) - counts
            within = torch.arange(len(which), device=classes.device) - before[which]
            slots = self.class_slots[self.first[classes][which] + within]
            rows, values = rows[which], values[which]
        verticals = self.slot_verticals[slots]
        most = int(rows.max()) + 1 if len(rows) else 1
        order = (verticals * most + rows).argsort(stable=True)
        return verticals[order], rows[order], slots[order], values[order]


class SlotTargets:
    """Sparse targets of one batch over all slots; `block` gives one vertical's."""

    def __init__(self, index: SlotIndex, batch_size: int, rows: Tensor, classes: Tensor, values: Tensor):
        """rows: int64 [n], images of the batch. classes: int [n], class ids. values: float32 [n]."""
        self.index, self.batch_size = index, batch_size
        verticals, self.rows, self.slots, self.values = index.spread(rows, classes, values)
        # One look at where each vertical's targets begin, instead of one search a vertical.
        self.cuts = torch.searchsorted(verticals, index.verticals).tolist()

    def block(self, vertical: int) -> SparseTargets:
        """The targets of a vertical, columns counted within it."""
        part = slice(self.cuts[vertical], self.cuts[vertical + 1])
        columns = self.slots[part] - self.index.offsets[vertical]
        shape = (self.batch_size, self.index.sizes[vertical])
        return SparseTargets(self.rows[part], columns, self.values[part], shape)


def block_targets(
    hard: SlotTargets,
    soft: SlotTargets | None,
    vertical: int,
    temperatures: Tensor | None = None,
    absent: SlotTargets | None = None,
) -> BlockTargets:
    """All kinds of targets of one vertical. temperatures: float [M], the pacing's; None: all 1."""
    scale = 1.0 if temperatures is None else temperatures[vertical]
    own = (each.block(vertical) if each else None for each in (soft, absent))
    return BlockTargets(vertical, hard.block(vertical), next(own), scale, next(own))
