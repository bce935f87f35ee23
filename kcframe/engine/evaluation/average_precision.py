"""Average precision and its mean per vertical (mpvap)."""

from __future__ import annotations

import torch
from torch import Tensor

from kcframe.interfaces.data import Labels

MAX_SCORES = 2**24  # scores that are copied and ranked at a time
FEW = 4  # up to this mean number of positives per class, `_counted` is faster than `_ranked`


def average_precision(scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Average precision of each class, float64 [C]; nan for a class without a positive image.

    scores: float [n, C], higher is more likely; -inf: the image does not count. rows, columns: int64 [p], the
    positive (image, class) pairs, without duplicates.

    AP = sum over thresholds of (recall step x precision), as in scikit-learn's average_precision_score:
    images with equal scores share one threshold. All positives are recall steps of the same size, so this is
    the mean over the positives of the precision at the positive's score.
    """
    num_classes = scores.shape[1]
    total = torch.zeros(num_classes, dtype=torch.float64)
    positives = torch.bincount(columns, minlength=num_classes)
    order = torch.argsort(columns, stable=True)
    rows, columns = rows[order], columns[order]
    positive_scores = scores[rows, columns]
    # Number of images at or above each positive's score: among all (above), and among the positives (below).
    above = (_counted if len(positive_scores) <= FEW * num_classes else _ranked)(
        scores, columns, positive_scores
    )
    start = 0
    for column, end in enumerate(positives.cumsum(0).tolist()):
        if end > start:
            some = positive_scores[start:end]
            positives_above = end - start - torch.searchsorted(some.sort().values, some)
            total[column] = (positives_above.double() / above[start:end].double()).sum()
        start = end
    return torch.where(positives > 0, total / positives.clamp_min(1), torch.nan)


def _ranked(scores: Tensor, columns: Tensor, positive_scores: Tensor) -> Tensor:
    """int64 [p]: number of images with a score of at least positive_scores[p] in class columns[p].

    columns: ascending. Sorts the scores of each class.
    """
    ranked = scores.T.contiguous().sort(dim=1).values  # one row per class
    ends = torch.bincount(columns, minlength=scores.shape[1]).cumsum(0).tolist()
    above = torch.empty(len(positive_scores), dtype=torch.int64)
    start = 0
    for column, end in enumerate(ends):
        above[start:end] = len(scores) - torch.searchsorted(
            ranked[column], positive_scores[start:end].contiguous()
        )
        start = end
    return above


def _counted(scores: Tensor, columns: Tensor, positive_scores: Tensor) -> Tensor:
    """Like `_ranked`, but compares each positive with all images: faster if classes have few positives."""
    above = torch.empty(len(positive_scores), dtype=torch.int64)
    step = max(1, MAX_SCORES // max(len(scores), 1))
    for start in range(0, len(positive_scores), step):
        some = slice(start, start + step)
        above[some] = (scores[:, columns[some]] >= positive_scores[some]).sum(0)
    return above


def nanmean(values: Tensor) -> float | None:
    """Mean of the values that are not nan; None if all are nan."""
    numbers = values[~values.isnan()]
    return float(numbers.mean()) if len(numbers) else None


class Ranking:
    """Average precision of a vertical's classes.

    ap: over all images; routed_ap: over the images with a label in the vertical. Both are lists of float64
    tensors, one per call of `add` (or more), with nan for a class without images.
    """

    def __init__(self, labels: Labels, absent: Labels | None, local: Tensor, images: Tensor | None = None):
        """labels, absent: of all images; absent may be None. local: int64 [N], class id -> local id or -1.

        images: int64, the rows of labels and logits that count; None: all.
        """
        self.images = images
        if images is not None:
            labels, absent = labels.take(images), None if absent is None else absent.take(images)
        self.rows, self.columns = _inside(labels, local)
        self.routed = self.rows.unique()
        self.renumber = torch.full((len(labels),), -1)
        self.renumber[self.routed] = torch.arange(len(self.routed))
        self.absent = None if absent is None else _inside(absent, local)
        self.ap: list[Tensor] = []
        self.routed_ap: list[Tensor] = []

    def figures(self) -> dict[str, float | None]:
        """The means over the classes, in percent."""
        means = {"ap": nanmean(torch.cat(self.ap)), "routed_ap": nanmean(torch.cat(self.routed_ap))}
        return {name: None if mean is None else 100.0 * mean for name, mean in means.items()}

    def add(self, logits: Tensor, first: int) -> None:
        """Adds the classes first..first+C-1 of the vertical. logits: [n, C]."""
        step = max(1, MAX_SCORES // max(len(logits), 1))
        for start in range(0, logits.shape[1], step):
            scores = logits[:, start : start + step]
            if self.images is not None:
                scores = scores[self.images]
            rows, columns = self._between(self.rows, self.columns, first + start, scores.shape[1])
            if self.absent is not None:
                gone = self._between(*self.absent, first + start, scores.shape[1])
                scores = without_unknown(scores, (rows, columns), gone)
            self.ap.append(average_precision(scores, rows, columns))
            self.routed_ap.append(average_precision(scores[self.routed], self.renumber[rows], columns))

    @staticmethod
    def _between(rows: Tensor, columns: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        inside = (columns >= start) & (columns < start + count)
        return rows[inside], columns[inside] - start


def _inside(labels: Labels, local: Tensor) -> tuple[Tensor, Tensor]:
    """(image, local id) of each label in the vertical, int64."""
    places = local[labels.classes.long()]
    return labels.rows()[places >= 0], places[places >= 0]


def without_unknown(scores: Tensor, present: tuple[Tensor, Tensor], absent: tuple[Tensor, Tensor]) -> Tensor:
    """Scores [n, C] with -inf where it is unknown whether the image shows the class.

    Such an image ranks below all positives. So it does not change the precision at any of them, as if it were
    not in the data.

    present, absent: (image, column) of the known entries.
    """
    is_known = torch.zeros(scores.shape, dtype=torch.bool)
    is_known[present] = True
    is_known[absent] = True
    return scores.masked_fill(~is_known, -torch.inf)
