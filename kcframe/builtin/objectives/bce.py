"""Sigmoid cross-entropy on labels (eq. 1) and on the teachers' K best classes (eq. 2).

Targets stay sparse. For logits y and targets z that are zero but for a few entries,

    -sum [z log s(y) + (1 - z) log(1 - s(y))]  =  sum softplus(y) - sum z y

where the second sum runs over those few entries only. If labels may be unknown, the hard term covers the
known entries only; the soft term still covers all classes that teachers know.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kcframe.builtin.objectives.options import TopKBceOptions
from kcframe.interfaces.objective import BlockTargets, Objective, SparseTargets
from kcframe.interfaces.options import PluginOptions

Weighed = tuple[SparseTargets, Tensor | float]
"""Targets, and the factor of their loss."""

CERTAIN = 2.0
"""Above this logit 1 - s(y) loses digits."""


def sparse_bce(logits: Tensor, targets: SparseTargets) -> Tensor:
    """Sigmoid cross-entropy of logits [B, N_v], summed over the classes: [B]."""
    listed = targets.values * logits[targets.rows, targets.columns]
    return _softplus(logits).sum(1).index_add(0, targets.rows, listed, alpha=-1)


def sparse_bce_gradient(logits: Tensor, out: Tensor, *weighed: Weighed) -> list[Tensor]:
    """Returns `sparse_bce` of each of the targets, [B]; writes their weighted sum's gradient to out [B, N_v].

    The gradient is share * (s(y) - z), summed over the targets. Terms that do not depend on the targets are
    computed once.
    """
    empty = _sigmoid_and_softplus(logits, out)
    out.mul_(sum(share for _, share in weighed))
    losses = []
    for targets, share in weighed:
        place = targets.rows, targets.columns
        out[place] -= (targets.values.to(out.dtype) * share).to(out.dtype)
        losses.append(empty.index_add(0, targets.rows, targets.values * logits[place], alpha=-1))
    return losses


def hard_bce(logits: Tensor, targets: BlockTargets) -> Tensor:
    """Eq. 1 on logits [B, N_v], summed over the classes with known labels: [B]."""
    if targets.absent is None:
        return sparse_bce(logits, targets.hard)
    total = logits.new_zeros(len(logits))
    for entries, sign in ((targets.hard, 1.0), (targets.absent, 0.0)):
        y = logits[entries.rows, entries.columns]
        total = total.index_add(0, entries.rows, _softplus(y) - sign * entries.values * y)
    return total


def hard_bce_gradient(logits: Tensor, targets: BlockTargets, share: Tensor | float, out: Tensor) -> Tensor:
    """Returns `hard_bce`, [B]; writes share times the gradient of its sum to out [B, N_v]."""
    if targets.absent is None:
        return sparse_bce_gradient(logits, out, (targets.hard, share))[0]
    out.zero_()
    for entries, sign in ((targets.hard, 1.0), (targets.absent, 0.0)):
        place = entries.rows, entries.columns
        out[place] = ((logits[place].sigmoid() - sign * entries.values) * share).to(out.dtype)
    return hard_bce(logits, targets)


def _sigmoid_and_softplus(logits: Tensor, out: Tensor) -> Tensor:
    """Writes s(y) to out; returns the sum of softplus(y) over the classes: [B]."""
    torch.sigmoid(logits, out=out)
    if logits.is_cuda:  # memory limits the speed here, and nonzero() below would wait for the device
        return _softplus(logits).sum(1)
    sure = (logits.amax(1) > CERTAIN).nonzero().view(-1)
    if len(sure) > len(logits) / 3:
        return _softplus(logits).sum(1)
    # -log(1 - s(y)) takes half the time of softplus.
    total = out.neg().log1p_().sum(1).neg_()
    total[sure] = _softplus(logits[sure]).sum(1)
    return total


def _softplus(logits: Tensor) -> Tensor:
    # At torch's default threshold of 20 the error is 2e-9, more than that of float64.
    return F.softplus(logits, threshold=40)


class HardBce(Objective):
    """Eq. 1 on the labels, for specialists, the generalist and every arm without teachers."""

    name = "hard-bce"
    Options = PluginOptions
    has_closed_form = True
    handles_unknown = True

    def forward(self, logits: Tensor, targets: BlockTargets) -> dict[str, Tensor]:
        return {"hard": hard_bce(logits, targets)}

    def gradient(
        self, logits: Tensor, targets: BlockTargets, share: Callable[[str], Tensor | float], out: Tensor
    ) -> dict[str, Tensor]:
        return {"hard": hard_bce_gradient(logits, targets, share("hard"), out)}


class TopKBce(Objective):
    """Eq. 2: targets are the teachers' K most probable classes; all other classes have target 0.

    With temperature T both sides are sigmoid(x / T). With hard_weight w the term w * eq. 1 is added.
    """

    name = "top-k-bce"
    Options = TopKBceOptions
    options: TopKBceOptions
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
        assert targets.soft is not None  # it uses teachers
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
        assert targets.soft is not None  # it uses teachers
        soft = targets.soft, share("soft") / temperature
        if not hard_weight:
            return {"soft": sparse_bce_gradient(softened, out, soft)[0]}
        hard_share = hard_weight * share("hard")
        if same and targets.absent is None:
            soft_term, hard_term = sparse_bce_gradient(logits, out, soft, (targets.hard, hard_share))
        else:
            (soft_term,), hard = sparse_bce_gradient(softened, out, soft), torch.empty_like(out)
            hard_term = hard_bce_gradient(logits, targets, hard_share, hard)
            out.add_(hard)
        return {"soft": soft_term, "hard": hard_weight * hard_term}
