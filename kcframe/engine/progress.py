"""How far each vertical is: smoothed over steps, the same on all workers, part of the checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kcframe.engine.world import World
from kcframe.interfaces.objective import BlockTargets

SMOOTHING = 0.98  # of every reading
IMAGES, STUDENT, TEACHER, ASKED = range(4)  # a tally's columns


def tally(logits: Tensor, targets: BlockTargets) -> Tensor:
    """Count who names a right class first, among the images with a label in this vertical.

    logits: paced, [B, N_v]. -> float32 [4]: such images; those whose highest logit is at a label; those for
    which teachers said something; those of them whose highest soft target is at a label.
    """
    hard, soft = targets.hard, targets.soft
    counts = torch.zeros(4, device=logits.device)
    own = hard.rows.unique()
    if not len(own):
        return counts
    width = hard.shape[1]
    right = hard.rows * width + hard.columns
    counts[IMAGES] = len(own)
    counts[STUDENT] = torch.isin(own * width + logits[own].argmax(1), right).sum()
    if soft is not None:
        kept = torch.isin(soft.rows, own)
        rows, columns, values = soft.rows[kept], soft.columns[kept], soft.values[kept]
        highest = torch.zeros(hard.shape[0], device=values.device, dtype=values.dtype)
        highest.scatter_reduce_(0, rows, values, "amax")
        first = values == highest[rows]
        named = rows[first & torch.isin(rows * width + columns, right)]
        counts[ASKED], counts[TEACHER] = len(rows.unique()), len(named.unique())
    return counts


class Smoothed:
    """Each vertical's loss and accuracies, smoothed exponentially."""

    def __init__(self, num_verticals: int):
        self.loss = torch.full((num_verticals,), torch.nan)
        # Counts are smoothed, not rates: a batch with one image of a vertical weighs less than one with 50.
        self.counts = torch.zeros(num_verticals, 4)

    def add(self, loss: Tensor, counts: Tensor | None, world: World) -> None:
        """A step. loss: float [M], of all workers. counts: float [M, 4], this worker's tallies."""
        now = loss.cpu()
        self.loss = torch.where(self.loss.isnan(), now, SMOOTHING * self.loss + (1 - SMOOTHING) * now)
        if counts is not None:
            world.sum([counts])
            self.counts = SMOOTHING * self.counts + counts.cpu()

    @property
    def accuracy(self) -> Tensor:
        """The student's, float [M], 0..1; nan before a vertical's first image."""
        return self.counts[:, STUDENT] / self.counts[:, IMAGES]

    @property
    def teacher_accuracy(self) -> Tensor:
        """The teachers', float [M], 0..1; nan where none has been asked."""
        return self.counts[:, TEACHER] / self.counts[:, ASKED]

    def state(self) -> dict[str, Any]:
        return {"loss": self.loss, "counts": self.counts}

    def restore(self, state: dict[str, Any]) -> None:
        self.loss, self.counts = state["loss"], state["counts"]
