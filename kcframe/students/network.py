"""A student as a network that can be deployed: pictures in, one logit a class out.

Shapes: B batch, C channels, N classes, S slots (a class that stands in several verticals has several).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kcframe.engine.model import Student
from kcframe.taxonomy import Taxonomy


class Network(nn.Module):
    """The student, its normalisation and its pacing included; no teacher is in it."""

    def __init__(self, student: Student, taxonomy: Taxonomy):
        super().__init__()
        self.student = student
        places = list(_slots_by_turn(taxonomy))
        self.in_order = len(places) == 1 and bool((places[0] == torch.arange(taxonomy.num_classes)).all())
        for turn, slots in enumerate(places):
            self.register_buffer(f"slots_{turn}", slots)
        self.num_turns = len(places)

    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, C, S, S] in 0..1 -> logits [B, N] by class id; their sigmoid is the probability.

        A class that stands in several verticals has the highest of its logits.
        """
        logits = self.student(images)
        if self.in_order:
            return logits
        found = logits[:, self.slots_0]
        for turn in range(1, self.num_turns):
            found = torch.maximum(found, logits[:, getattr(self, f"slots_{turn}")])
        return found


def _slots_by_turn(taxonomy: Taxonomy) -> list[Tensor]:
    """int64 [N] each: every class's first slot; then its second, or its first again; and so on."""
    starts = torch.from_numpy(taxonomy.class_slot_offsets)
    slots = torch.from_numpy(taxonomy.class_slots)
    counts = starts.diff()
    return [slots[starts[:-1] + torch.where(counts > turn, turn, 0)] for turn in range(int(counts.max()))]


class Hierarchy:
    """Makes parents at least as probable as their children."""

    def __init__(self, taxonomy: Taxonomy):
        pairs = [(a, c) for c in range(taxonomy.num_classes) for a in taxonomy.ancestors(c)]
        found = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        self.ancestors, self.descendants = found[:, 0], found[:, 1]

    def lift(self, logits: Tensor) -> Tensor:
        """logits [B, N] -> [B, N]: each the highest of its own and its descendants'."""
        above = self.ancestors.to(logits.device).expand(len(logits), -1)
        return logits.scatter_reduce(1, above, logits[:, self.descendants], "amax")
