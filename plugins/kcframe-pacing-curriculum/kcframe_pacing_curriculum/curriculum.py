"""A curriculum of verticals (after Bengio et al., "Curriculum learning", ICML 2009, who order examples).

Shapes: M verticals.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kcframe.interfaces.pacing import Pacing, Progress
from kcframe_pacing_curriculum.options import CurriculumOptions

NOT_YET = -1  # the turn of a vertical before hardness is measured


class Curriculum(Pacing):
    """Until `together` all verticals weigh 1. Then the vertical of turn r (0 to M - 1) weighs `least` until

        together + (until - together) * r / (M - 1)

    and 1 afterwards, with a linear way of length `rise` between the two. A weight is for all of the
    vertical's loss. Images of verticals that wait are still shown, as negatives of those that have come.

    The order is given, or measured once, at the first step after `together`, from what is smoothed over
    the steps before (`Progress`), the same on all workers. It is kept in the buffer `turns`, so that a run
    that goes on has the same one. A vertical without any image by then counts as the hardest; of two
    equally hard ones the first in the data comes first.
    """

    name = "curriculum"
    Options = CurriculumOptions
    turns: Tensor

    def __init__(self, options: CurriculumOptions, sizes: Sequence[int], num_classes: int):
        super().__init__(options, sizes, num_classes)
        num, order = len(self.sizes), options.order
        given = not isinstance(order, str)
        if given and len(order) != num:
            raise ValueError(f"order has {len(order)} numbers, the data has {num} verticals")
        self.uses_accuracy = not given and options.hardness == "accuracy"
        self.register_buffer("turns", turns_of(order) if given else torch.full((num,), NOT_YET))
        self.now = torch.ones(num)

    def weights(self, progress: Progress) -> Tensor:
        when = progress.step / progress.num_steps
        if when < self.options.together:
            self.now = torch.ones(len(self.sizes))
            return self.now
        turns = self.turns.tolist()
        if NOT_YET in turns:
            measured = self._measured(progress)
            self.turns.copy_(measured)
            turns = measured.tolist()
        self.now = torch.tensor([self._weight(turn, when) for turn in turns])
        return self.now

    def _weight(self, turn: int, when: float) -> float:
        options = self.options
        share = turn / max(len(self.sizes) - 1, 1)
        # Shares of steps are rounded: a step that should be in time is not to be late by 1e-17.
        since = when - options.together - (options.until - options.together) * share + 1e-9
        risen = min(max(since / options.rise, 0.0), 1.0) if options.rise else float(since >= 0)
        return options.least + (1 - options.least) * risen

    def _measured(self, progress: Progress) -> Tensor:
        hardness = -progress.accuracy.nan_to_num(-1) if self.uses_accuracy else progress.loss
        hardest_first = self.options.order == "hardest-first"
        return turns_of(hardness.argsort(descending=hardest_first, stable=True).tolist())

    def readings(self) -> dict[str, Tensor]:
        """weight: each vertical's of the last step. turn: from 0; before it is measured, nan."""
        turns = self.turns.float()
        return {"weight": self.now, "turn": turns.masked_fill(turns == NOT_YET, torch.nan)}


def turns_of(order: Sequence[int]) -> Tensor:
    """Verticals in the order in which they come in -> int64 [M], each vertical's turn."""
    return torch.tensor(order).argsort()
