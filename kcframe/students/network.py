"""A student as a network for deployment: pictures in, one logit per class out.

Shapes: B batch, C channels, S side of a picture, N classes. A class in several verticals has several slots.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kcframe.engine.model import Student
from kcframe.taxonomy import Taxonomy


class Network(nn.Module):
    """The student with its normalisation and its pacing, without teachers."""

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

        For a class in several verticals it is the highest of the class's logits.
        """
        logits = self.student(images)
        if self.in_order:
            return logits
        highest = logits[:, self.slots_0]
        for turn in range(1, self.num_turns):
            highest = torch.maximum(highest, logits[:, getattr(self, f"slots_{turn}")])
        return highest


def _slots_by_turn(taxonomy: Taxonomy) -> list[Tensor]:
    """One int64 [N] for each t = 0, 1, …: each class's slot number t, or its first slot if it has fewer."""
    starts = torch.from_numpy(taxonomy.class_slot_offsets)
    slots = torch.from_numpy(taxonomy.class_slots)
    counts = starts.diff()
    return [slots[starts[:-1] + torch.where(counts > turn, turn, 0)] for turn in range(int(counts.max()))]


class Hierarchy:
    """Makes parents at least as probable as their children."""

    def __init__(self, taxonomy: Taxonomy):
        pairs = [(a, c) for c in range(taxonomy.num_classes) for a in taxonomy.ancestors(c)]
        links = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        self.ancestors, self.descendants = links[:, 0], links[:, 1]

    def lift(self, logits: Tensor) -> Tensor:
        """logits [B, N] -> [B, N]: for each class the maximum over itself and its descendants."""
        above = self.ancestors.to(logits.device).expand(len(logits), -1)
        return logits.scatter_reduce(1, above, logits[:, self.descendants], "amax")
