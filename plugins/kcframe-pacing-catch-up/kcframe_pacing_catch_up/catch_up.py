"""Accuracy-driven weights: Xiang, Ding, Han, "Learning from multiple experts" (LFME), ECCV 2020.

Shapes: M verticals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kcframe.interfaces.pacing import Pacing, Progress
from kcframe_pacing_catch_up.options import CatchUpOptions

SOFT = "soft"  # the term of eq. 2's kind, in every objective that asks teachers


class CatchUp(Pacing):
    """The soft term's weight in vertical v, from the accuracies of student S and teacher T there.

        w = 1                                       while acc_S < a acc_T
        w = max(0, (acc_T - acc_S) / ((1 - a) acc_T))  from then on

    a is the option `threshold`. Hard terms keep 1. LFME measures on validation images once an epoch; here
    both are measured on the training images, smoothed, every step (`Progress.accuracy`).

    Our choices where LFME states nothing. Before a vertical's first image nobody knows: w = 1. A teacher
    that is never right has nothing to teach: w = 0. At a = 1 the ramp is a step at acc_S = acc_T. `least`
    is the smallest w.
    """

    name = "catch-up"
    Options = CatchUpOptions
    uses_accuracy = True

    def __init__(self, options: CatchUpOptions, sizes: Sequence[int], num_classes: int):
        super().__init__(options, sizes, num_classes)
        self.now = torch.ones(len(self.sizes))

    def weights(self, progress: Progress) -> Mapping[str, Tensor]:
        self.now = self.weight_of(progress.accuracy, progress.teacher_accuracy)
        return {SOFT: self.now}

    def weight_of(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Accuracies in 0..1, float [M], nan where unknown -> weights, float [M]."""
        threshold = self.options.threshold
        # A teacher that is never right makes 0 / 0 or -1 / 0 here; it is silenced below.
        ramp = (teacher - student) / ((1 - threshold) * teacher)
        weight = torch.where(student < threshold * teacher, 1.0, ramp.clamp(0, 1))
        weight = torch.where((student >= teacher) | (teacher <= 0), 0.0, weight)
        weight = torch.where(student.isnan() | teacher.isnan(), 1.0, weight)
        return weight.clamp_min(self.options.least)

    def readings(self) -> dict[str, Tensor]:
        """soft_weight: each vertical's w of the last step."""
        return {"soft_weight": self.now}
