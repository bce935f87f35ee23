"""Average precision and its mean per vertical (mpvap)."""

from __future__ import annotations

import torch
from torch import Tensor

from kcframe.interfaces.data import Labels

MAX_SCORES = 2**24  # numbers that are copied and ranked at a time
FEW = 4  # positives a class on average, up to which they are counted instead of ranked


def average_precision(scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Average precision of each class, float64 [C]; nan for a class without a positive image.

    scores: float [n, C], higher is more likely; -inf is "not asked". rows, columns: int64 [p], the
    positive (image, class) pairs, each once.

    AP = sum over thresholds of (recall step x precision), as scikit-learn's average_precision_score:
    images with equal scores share one threshold. Since each positive is one equal step of recall, this
    is the mean over the positives of the precision at that positive's score.
    """
    num_classes = scores.shape[1]
    total = torch.zeros(num_classes, dtype=torch.float64)
    positives = torch.bincount(columns, minlength=num_classes)
    order = torch.argsort(columns, stable=True)
    rows, columns = rows[order], columns[order]
    own = scores[rows, columns]
    # Images at or above each positive's score, among all and among the positives.
    above = (_counted if len(own) <= FEW * num_classes else _ranked)(scores, columns, own)
    start = 0
    for column, end in enumerate(positives.cumsum(0).tolist()):
        if end > start:
            some = own[start:end]
            own_above = end - start - torch.searchsorted(some.sort().values, some)
            total[column] = (own_above.double() / above[start:end].double()).sum()
        start = end
    return torch.where(positives > 0, total / positives.clamp_min(1), torch.nan)


def _ranked(scores: Tensor, columns: Tensor, own: Tensor) -> Tensor:
    """int64 [p]: how many images score at least own[p] in class columns[p] (ascending); sorts each class."""
    ranked = scores.T.contiguous().sort(dim=1).values  # a class a row
    ends = torch.bincount(columns, minlength=scores.shape[1]).cumsum(0).tolist()
    found = torch.empty(len(own), dtype=torch.int64)
    start = 0
    for column, end in enumerate(ends):
        found[start:end] = len(scores) - torch.searchsorted(ranked[column], own[start:end].contiguous())
        start = end
    return found


def _counted(scores: Tensor, columns: Tensor, own: Tensor) -> Tensor:
    """As `_ranked`, by looking at all of them for each positive: faster where a class has only a few."""
    found = torch.empty(len(own), dtype=torch.int64)
    step = max(1, MAX_SCORES // max(len(scores), 1))
    for start in range(0, len(own), step):
        some = slice(start, start + step)
        found[some] = (scores[:, columns[some]] >= own[some]).sum(0)
    return found


def nanmean(values: Tensor) -> float | None:
    """Mean of what is not nan; None if nothing is."""
    kept = values[~values.isnan()]
    return float(kept.mean()) if len(kept) else None


class Ranking:
    """Average precision of a vertical's classes, over all images (ap) and over those with a label in it
    (routed_ap): float64, a tensor for each piece of its logits, nan for a class without images."""

    def __init__(self, labels: Labels, absent: Labels | None, local: Tensor, images: Tensor | None = None):
        """labels: of all images; absent: likewise, or None. local: int64 [N], class id -> local id or -1.
        images: int64, the rows that count, of labels and logits alike; None: all."""
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
        """logits: [n, C], of the classes from `first` on."""
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
        own = (columns >= start) & (columns < start + count)
        return rows[own], columns[own] - start


def _inside(labels: Labels, local: Tensor) -> tuple[Tensor, Tensor]:
    """Image and local id of each label in the vertical, int64."""
    places = local[labels.classes.long()]
    return labels.rows()[places >= 0], places[places >= 0]


def without_unknown(scores: Tensor, present: tuple[Tensor, Tensor], absent: tuple[Tensor, Tensor]) -> Tensor:
    """Scores [n, C] in which an image comes last where it is not known whether it shows the class: below
    all positives it changes no precision at any of them, as if it were not there.

    present, absent: (image, column) of what is known.
    """
    known = torch.zeros(scores.shape, dtype=torch.bool)
    known[present] = True
    known[absent] = True
    return scores.masked_fill(~known, -torch.inf)
