"""Average precision and its mean per vertical (mpvap)."""

from __future__ import annotations

import torch
from torch import Tensor


def average_precision(scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Average precision of each class, float64 [C]; nan for a class without a positive image.

    scores: float [n, C], higher is more likely; -inf is "not asked". rows, columns: int64 [p], the
    positive (image, class) pairs, each once.

    AP = sum over thresholds of (recall step x precision), as scikit-learn's average_precision_score:
    images with equal scores share one threshold. Since each positive is one equal step of recall, this
    is the mean over the positives of the precision at that positive's score.
    """
    num_images, num_classes = scores.shape
    total = torch.zeros(num_classes, dtype=torch.float64)
    positives = torch.bincount(columns, minlength=num_classes)
    order = torch.argsort(columns, stable=True)
    rows, columns = rows[order], columns[order]
    ends = positives.cumsum(0).tolist()
    ranked = scores.T.contiguous().sort(dim=1).values  # ascending, a class a row
    start = 0
    for column, end in enumerate(ends):
        if end > start:
            own = scores[rows[start:end], column].contiguous()
            # Images at or above each positive's score, among all and among the positives.
            above = num_images - torch.searchsorted(ranked[column], own)
            own_above = len(own) - torch.searchsorted(own.sort().values, own)
            total[column] = (own_above.double() / above.double()).sum()
        start = end
    return torch.where(positives > 0, total / positives.clamp_min(1), torch.nan)


def nanmean(values: Tensor) -> float | None:
    """Mean of what is not nan; None if nothing is."""
    kept = values[~values.isnan()]
    return float(kept.mean()) if len(kept) else None
