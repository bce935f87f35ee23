"""KL between a teacher's softmax and the student's, from sparse targets.

Shapes: B images, N_v classes of the vertical, n targets listed. Of image i, S_i are the classes that the
student's softmax q_i is over, p_ij the targets listed, m_i their sum, and x = y / T:

    KL_i = sum_j p_ij log(p_ij / m_i) - p_ij log q_ij,    q_ij = exp(x_ij) / sum over S_i of exp(x_i)

It is m_i times the KL of p_i / m_i from q_i: least, and 0, at q_i = p_i / m_i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kcframe.interfaces.objective import SparseTargets


def divergence(scaled: Tensor, targets: SparseTargets, over_all: bool) -> Tensor:
    """KL_i of every image, [B]; 0 where nothing is listed.

    scaled: x, [B, N_v]. over_all: S_i is the whole vertical; else the classes listed for image i.
    """
    rows, values = targets.rows, targets.values.to(scaled.dtype)
    named = scaled[rows, targets.columns]
    log_q = named - _log_sums(scaled, named, targets, over_all)[rows]
    mass = _mass(values, targets)
    each = torch.xlogy(values, values / mass[rows]) - values * log_q
    return scaled.new_zeros(targets.shape[0]).index_add(0, rows, each)


def add_gradient(
    scaled: Tensor, targets: SparseTargets, over_all: bool, share: Tensor | float, out: Tensor
) -> None:
    """Adds share times d(sum of KL_i)/dx = m_i q_ij (in S_i) - p_ij to out [B, N_v]."""
    rows, columns, values = targets.rows, targets.columns, targets.values.to(scaled.dtype)
    named = scaled[rows, columns]
    log_sums, mass = _log_sums(scaled, named, targets, over_all), _mass(values, targets)
    if over_all:
        asked = rows.unique_consecutive()
        q = (scaled[asked] - log_sums[asked, None]).exp()
        out[asked] += share * mass[asked, None] * q
        out[rows, columns] -= share * values
    else:
        out[rows, columns] += share * (mass[rows] * (named - log_sums[rows]).exp() - values)


def _mass(values: Tensor, targets: SparseTargets) -> Tensor:
    """m, [B]; above 0, so that a softmax of which nothing is left in float32 divides nothing by 0."""
    mass = values.new_zeros(targets.shape[0]).index_add(0, targets.rows, values)
    return mass.clamp_min(torch.finfo(values.dtype).tiny)


def _log_sums(scaled: Tensor, named: Tensor, targets: SparseTargets, over_all: bool) -> Tensor:
    """log of the sum over S_i of exp(x_i), [B]; 0 where nothing is listed. named: x of what is, [n]."""
    rows, none = targets.rows, scaled.new_zeros(targets.shape[0])
    if over_all:
        asked = rows.unique_consecutive()
        return none.index_copy(0, asked, scaled[asked].logsumexp(1))
    # The largest is taken out, so that exp stays finite; where it comes from makes no difference.
    top = none.scatter_reduce(0, rows, named.detach(), "amax", include_self=False)
    sums = none.index_add(0, rows, (named - top[rows]).exp())
    return torch.where(sums > 0, sums, 1).log() + top
