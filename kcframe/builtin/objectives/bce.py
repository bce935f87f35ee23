"""Sigmoid cross-entropy on labels (eq. 1) and on the teachers' K best classes (eq. 2).

Targets stay sparse. For logits y and targets z that are zero but for a few entries,

    -sum [z log s(y) + (1 - z) log(1 - s(y))]  =  sum softplus(y) - sum z y

where the second sum runs over those few entries only. Where labels may be unknown, the hard term is over the
entries that are known, and nothing else; what teachers say of the others counts all the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kcframe.builtin.objectives.options import TopKBceOptions
from kcframe.interfaces.objective import BlockTargets, Objective, SparseTargets
from kcframe.interfaces.options import PluginOptions


def sparse_bce(logits: Tensor, targets: SparseTargets) -> Tensor:
    """Sigmoid cross-entropy of logits [B, N_v], summed over the classes: [B]."""
    listed = targets.values * logits[targets.rows, targets.columns]
    # torch's default threshold of 20 is off by 2e-9 there, more than float64's exactness.
    return F.softplus(logits, threshold=40).sum(1).index_add(0, targets.rows, listed, alpha=-1)


def sparse_bce_gradient(logits: Tensor, targets: SparseTargets, share: Tensor | float, out: Tensor) -> None:
    """share times the gradient of `sparse_bce`'s sum, s(y) - z, into out: [B, N_v]."""
    torch.sigmoid(logits, out=out)
    out[targets.rows, targets.columns] -= targets.values.to(out.dtype)
    out.mul_(share)


def hard_bce(logits: Tensor, targets: BlockTargets) -> Tensor:
    """Eq. 1 on logits [B, N_v], summed over the classes that are not unknown: [B]."""
    if targets.absent is None:
        return sparse_bce(logits, targets.hard)
    total = logits.new_zeros(len(logits))
    for entries, sign in ((targets.hard, 1.0), (targets.absent, 0.0)):
        y = logits[entries.rows, entries.columns]
        total = total.index_add(0, entries.rows, F.softplus(y, threshold=40) - sign * entries.values * y)
    return total


def hard_bce_gradient(logits: Tensor, targets: BlockTargets, share: Tensor | float, out: Tensor) -> None:
    """share times the gradient of `hard_bce`'s sum into out: [B, N_v]."""
    if targets.absent is None:
        sparse_bce_gradient(logits, targets.hard, share, out)
        return
    out.zero_()
    for entries, sign in ((targets.hard, 1.0), (targets.absent, 0.0)):
        place = entries.rows, entries.columns
        out[place] = ((logits[place].sigmoid() - sign * entries.values) * share).to(out.dtype)


class HardBce(Objective):
    """The labels as they are: eq. 1, for specialists, the generalist and every arm without teachers."""

    name = "hard-bce"
    Options = PluginOptions
    has_closed_form = True
    handles_unknown = True

    def forward(self, logits: Tensor, targets: BlockTargets) -> dict[str, Tensor]:
        return {"hard": hard_bce(logits, targets)}

    def gradient(
        self, logits: Tensor, targets: BlockTargets, share: Callable[[str], Tensor | float], out: Tensor
    ) -> dict[str, Tensor]:
        hard_bce_gradient(logits, targets, share("hard"), out)
        return {"hard": hard_bce(logits, targets)}


class TopKBce(Objective):
    """Eq. 2: the teachers' K most probable classes, 0 for all others in and outside the vertical.

    With temperature T both sides are sigmoid(x / T); with hard_weight w the term w * eq. 1 is added.
    """

    name = "top-k-bce"
    Options = TopKBceOptions
    uses_teachers = True
    has_closed_form = True
    handles_unknown = True

    def __init__(self, options: TopKBceOptions):
        super().__init__(options)
        self.num_kept = options.k

    def soften(self, teacher_logits: Tensor, temperature_scale: Tensor | float = 1.0) -> Tensor:
        return (teacher_logits / (self.options.temperature * temperature_scale)).sigmoid()

    def forward(self, logits: Tensor, targets: BlockTargets) -> dict[str, Tensor]:
        temperature = self.options.temperature * targets.temperature_scale
        terms = {"soft": sparse_bce(logits / temperature, targets.soft)}
        if self.options.hard_weight:
            terms["hard"] = self.options.hard_weight * hard_bce(logits, targets)
        return terms

    def gradient(
        self, logits: Tensor, targets: BlockTargets, share: Callable[[str], Tensor | float], out: Tensor
    ) -> dict[str, Tensor]:
        temperature, hard_weight = (
            self.options.temperature * targets.temperature_scale,
            self.options.hard_weight,
        )
        same = isinstance(temperature, float) and temperature == 1.0
        softened = logits if same else logits / temperature
        sparse_bce_gradient(softened, targets.soft, share("soft") / temperature, out)
        terms = {"soft": sparse_bce(softened, targets.soft)}
        if hard_weight:
            hard = torch.empty_like(out)
            hard_bce_gradient(logits, targets, hard_weight * share("hard"), hard)
            out.add_(hard)
            terms["hard"] = hard_weight * hard_bce(logits, targets)
        return terms
