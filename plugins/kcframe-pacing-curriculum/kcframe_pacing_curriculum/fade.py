"""From the teachers' soft targets to the labels, in the course of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kcframe.interfaces.pacing import Pacing, Progress
from kcframe_pacing_curriculum.options import FadeOptions


class Fade(Pacing):
    """The soft term's weight goes from 1 to `soft_to`, the hard one's from `hard_from` to 1.

    Both go from `begin` to `end`, evenly or as half a cosine, in all verticals alike. The objective has to
    have both terms: with top-k-bce that is a `hard_weight` above 0, which the fade multiplies.
    """

    name = "fade"
    Options = FadeOptions

    def __init__(self, options: FadeOptions, sizes: Sequence[int], num_classes: int):
        super().__init__(options, sizes, num_classes)
        self.now = {name: torch.ones(len(self.sizes)) for name in ("soft", "hard")}

    def weights(self, progress: Progress) -> Mapping[str, Tensor]:
        options, way = self.options, self.way(progress.step / progress.num_steps)
        soft, hard = 1 - (1 - options.soft_to) * way, options.hard_from + (1 - options.hard_from) * way
        self.now = {"soft": self._everywhere(soft), "hard": self._everywhere(hard)}
        return self.now

    def way(self, when: float) -> float:
        """when: share of all steps that are finished -> how much of the way is gone, 0..1."""
        begin, end = self.options.begin, self.options.end
        if when >= end:
            return 1.0
        if when <= begin:
            return 0.0
        gone = (when - begin) / (end - begin)
        return gone if self.options.shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * gone)

    def _everywhere(self, weight: float) -> Tensor:
        return torch.full((len(self.sizes),), weight)

    def readings(self) -> dict[str, Tensor]:
        """soft_weight, hard_weight: of the last step."""
        return {f"{name}_weight": weights for name, weights in self.now.items()}
