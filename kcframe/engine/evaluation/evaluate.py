"""How good a network is, vertical by vertical.

All figures are percentages (0-100). For a vertical v with N_v classes:

* **ap**: average precision of each class of v that has a test image, ranked over *all* test images, those
  of other verticals included; then the mean over v's classes. The mean over verticals is **mpvap**. The
  paper does not say how it restricts AP; this is our choice: the student is deployed alone, so a bird that
  it takes for a dish must cost it. Parents count as classes. Where labels may be unknown, a class is ranked
  over the images of which it is known, as Open Images does it.
* **routed_ap**: the same over v's own test images only, as if someone told the student the vertical.
  Specialists can only be measured this way, so theirs is both.
* **top1, top5**: share of v's images (those with a leaf label in v) for which one of the 1 (5) most
  probable leaf classes of all verticals is a label. Parents are left out: "Greek" is never wrong for a
  Greek letter. **routed_top1**: among v's own leaf classes only.

* **effective_rank, constant_units**: of what the head's blocks share, over the images: in how many
  directions it varies, tr(C)^2 / tr(C^2) for its covariance C, and the percent of units that do not vary
  at all. A head that starts with every class at 1/2 kills its features; here it shows.

* **apart**: ap and routed_ap over some images alone, where a data source tells them apart
  (`ImageSet.told_apart`).

The whole network's figure is always the mean over the verticals. A vertical without test images has no
figures (null) and is left out of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kcframe.engine.data.bad_images import BadImages
from kcframe.engine.data.split import Split
from kcframe.engine.evaluation.average_precision import MAX_SCORES, Ranking
from kcframe.engine.model import Student
from kcframe.errors import DataError, TrainingError
from kcframe.interfaces.data import Labels
from kcframe.taxonomy import Taxonomy

FIGURES = ("ap", "routed_ap", "top1", "top5", "routed_top1")
SPREAD = 1024  # images whose features are compared for their effective rank
MAX_LOGITS = 2**28  # numbers of a vertical's logits that are there at a time: 1 GiB


@dataclass(frozen=True)
class Settings:
    """How to run a network without training it: images at a time, and on which device."""

    batch_size: int
    device: torch.device


@dataclass
class Evaluation:
    """per_vertical: name -> {figure: percent or None, 'images': count}; where images are told apart, with
    'apart': name -> {'ap', 'routed_ap'}.

    measured: int64 [n], the images that it is about. bad: image -> reason, of those that could not be read.
    confusion: images by [true vertical][vertical of the most probable leaf class]. top: the five most
    probable leaf classes of each image, as class ids int64 [n, 5], and their probabilities.
    """

    per_vertical: dict[str, dict[str, Any]]
    measured: Tensor | None = None
    bad: dict[int, str] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    effective_rank: float | None = None
    constant_units: float | None = None
    top_classes: Tensor | None = None
    top_probabilities: Tensor | None = None

    def mean(self, figure: str) -> float | None:
        """A figure's mean over the verticals that have it."""
        values = [row[figure] for row in self.per_vertical.values() if row[figure] is not None]
        return sum(values) / len(values) if values else None

    def summary(self) -> dict[str, Any]:
        """The figures as plain data, mpvap and its kin first."""
        return {
            "mpvap": self.mean("ap"),
            "routed_mpvap": self.mean("routed_ap"),
            "top1": self.mean("top1"),
            "top5": self.mean("top5"),
            "routed_top1": self.mean("routed_top1"),
            "effective_rank": self.effective_rank,
            "constant_units": self.constant_units,
            "per_vertical": self.per_vertical,
        }


@dataclass(frozen=True)
class Evaluator:
    """Measures any network that has the taxonomy's classes on the same images."""

    split: Split
    taxonomy: Taxonomy
    settings: Settings

    def __call__(self, student: Student) -> Evaluation:
        return evaluate(student, self.split, self.taxonomy, self.settings)


@torch.inference_mode()
def evaluate(student: Student, split: Split, taxonomy: Taxonomy, settings: Settings) -> Evaluation:
    """Measure a student on a split, whose labels are in the taxonomy's ids.

    The features [n, D'] are computed once and kept; of the logits there are MAX_LOGITS at a time, so that
    memory grows neither with N nor with n x N_v. Raises DataError if no image can be read,
    TrainingError if logits are not finite.
    """
    was_training = student.training
    student.eval()
    try:
        shared, split, bad = _features(student, split, settings)
        labels, absent = split.chosen_labels().likely(), split.chosen_absent()
        rows, classes = labels.rows(), labels.classes.long()
        leaf = torch.from_numpy(taxonomy.is_leaf)
        per_vertical: dict[str, dict[str, Any]] = {}
        subsets = {
            name: chosen[split.indices].nonzero().flatten()
            for name, chosen in split.images.told_apart.items()
        }
        best: list[tuple[Tensor, Tensor]] = []
        members: list[Tensor] = []
        for v, name in enumerate(taxonomy.verticals):
            class_ids = torch.from_numpy(taxonomy.vertical_classes(v)).long()
            local = torch.from_numpy(taxonomy.local_ids(v))
            in_vertical = leaf[classes] & (local[classes] >= 0)
            member = rows[in_vertical].unique()
            members.append(member)
            ranking = Ranking(labels, absent, local)
            rankings = {subset: Ranking(labels, absent, local, images) for subset, images in subsets.items()}
            nearest: list[tuple[Tensor, Tensor]] = []
            step = max(1, MAX_LOGITS // max(len(split), 1))
            for start in range(0, len(class_ids), step):
                end = min(start + step, len(class_ids))
                logits = _columns(student, shared, v, slice(start, end), settings)
                if logits.numel() and not float(logits.max()) < math.inf:  # nan is not, either
                    raise TrainingError(f"the network's logits of vertical '{name}' are not finite")
                ranking.add(logits, start)
                for of_subset in rankings.values():
                    of_subset.add(logits, start)
                nearest.append(_nearest(logits, class_ids[start:end], leaf))
            values, guesses = (torch.cat(parts, 1) for parts in zip(*nearest, strict=True))
            values, places = values.topk(min(5, values.shape[1]), dim=1)
            best.append((values, guesses.gather(1, places)))
            per_vertical[name] = {
                **ranking.figures(),
                "images": len(member),
                "routed_top1": _hits(best[-1][1][member, :1], member, labels),
            }
            if subsets:
                per_vertical[name]["apart"] = {subset: r.figures() for subset, r in rankings.items()}
        values, guesses = _merge_best(best, taxonomy)
        for (_, row), member in zip(per_vertical.items(), members, strict=True):
            row["top1"] = _hits(guesses[member, :1], member, labels)
            row["top5"] = _hits(guesses[member], member, labels)
        confusion = _confusion(guesses[:, 0], members, taxonomy)
        effective_rank, constant_units = _variety(shared)
        return Evaluation(
            per_vertical,
            measured=split.indices,
            bad=bad.reasons,
            confusion=confusion,
            effective_rank=effective_rank,
            constant_units=constant_units,
            top_classes=guesses,
            top_probabilities=values.sigmoid(),
        )
    finally:
        student.train(was_training)


def _features(student: Student, split: Split, settings: Settings) -> tuple[Tensor, Split, BadImages]:
    """What all blocks share, float32 [n, D'], of the images that can be read, and the split of those."""
    bad = BadImages(len(split.images), split.max_bad_fraction)
    parts = [
        student.head.shared(student.features(images.to(settings.device))).float().cpu()
        for images in _batches(split, settings, bad)
    ]
    if not parts:
        raise DataError(f"no image can be used; the first: {next(iter(bad.reasons.values()), '')}")
    if bad.reasons:
        split = split.only(split.indices[~torch.isin(split.indices, torch.tensor(list(bad.reasons)))])
    return torch.cat(parts), split, bad


def _batches(split: Split, settings: Settings, bad: BadImages) -> Iterator[Tensor]:
    """The pictures that can be read, at least one a batch; the others go to `bad`."""
    for indices in split.indices.split(settings.batch_size):
        if not split.max_bad_fraction:
            yield split.images.load(indices, None)
            continue
        pictures, reasons = split.images.load_readable(indices, None)
        bad.add({int(indices[row]): reason for row, reason in reasons.items()}, len(indices))
        good = [row for row in range(len(indices)) if row not in reasons]
        if good or not len(indices):  # a vertical without test images has an empty batch
            yield pictures[good]


def _columns(student: Student, shared: Tensor, vertical: int, classes: slice, settings: Settings) -> Tensor:
    """Logits [n, C] of some of a vertical's classes, from what all blocks share [n, D']."""
    logits = torch.empty(len(shared), classes.stop - classes.start)
    for rows in torch.arange(len(shared)).split(settings.batch_size):
        if len(rows):
            block = student.head.block(vertical, shared[rows].to(settings.device))
            logits[rows] = block[:, classes].float().cpu()
    return logits


def _nearest(logits: Tensor, own: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable leaf classes, five or as many as there are: (logits, class ids) [n, k].

    logits: [n, C]. own: int64 [C], their class ids. leaf: bool [N].
    """
    count = min(5, len(own))
    values = torch.empty(len(logits), count)
    classes = torch.empty(len(logits), count, dtype=torch.int64)
    step = max(1, MAX_SCORES // len(own))
    for start in range(0, len(logits), step):
        some = logits[start : start + step].masked_fill(~leaf[own], -torch.inf)
        values[start : start + step], places = some.topk(count, dim=1)
        classes[start : start + step] = own[places]
    return values, classes


def _hits(guesses: Tensor, images: Tensor, labels: Labels) -> float | None:
    """Percent of `images` for which one of their guesses [len(images), k] is a label."""
    if not len(images):
        return None
    right = 0
    for image, row in zip(images.tolist(), guesses.tolist(), strict=True):
        right += not set(labels.of(image)).isdisjoint(row)
    return 100.0 * right / len(images)


def _merge_best(best: list[tuple[Tensor, Tensor]], taxonomy: Taxonomy) -> tuple[Tensor, Tensor]:
    """The five best leaf classes over all verticals, each class once: (logits, class ids) [n, 5]."""
    values = torch.cat([v for v, _ in best], 1)
    classes = torch.cat([c for _, c in best], 1)
    values, order = values.sort(dim=1, descending=True, stable=True)
    classes = classes.gather(1, order)
    if taxonomy.num_slots > taxonomy.num_classes:
        # A class in several verticals counts with its best slot: push repeats to the end.
        repeat = torch.zeros_like(classes, dtype=torch.bool)
        for column in range(1, classes.shape[1]):
            repeat[:, column] = (classes[:, :column] == classes[:, column : column + 1]).any(1)
        values = values.masked_fill(repeat, -torch.inf)
        values, order = values.sort(dim=1, descending=True, stable=True)
        classes = classes.gather(1, order)
    return values[:, :5], classes[:, :5]


def _confusion(predicted: Tensor, members: list[Tensor], taxonomy: Taxonomy) -> list[list[int]]:
    first_vertical = torch.tensor([taxonomy.locate(c)[0][0] for c in range(taxonomy.num_classes)])
    guessed = first_vertical[predicted]
    rows = []
    for vertical, member in enumerate(members):
        own = torch.from_numpy(taxonomy.vertical_classes(vertical)).long()
        # A class in two verticals, predicted for an image of either, is not a confusion.
        home = torch.isin(predicted[member], own)
        seen = torch.where(home, torch.tensor(vertical), guessed[member])
        rows.append(torch.bincount(seen, minlength=taxonomy.num_verticals).tolist())
    return rows


def _variety(shared: Tensor) -> tuple[float | None, float | None]:
    """(effective rank, percent of units that are constant) of features [n, D']; no rank if not finite."""
    if not len(shared):
        return None, None
    constant = 100.0 * float((shared.amax(0) == shared.amin(0)).float().mean())
    # Through the Gram matrix of at most SPREAD images: tr(C^2) without the [D', D'] covariance.
    some = shared[:: math.ceil(len(shared) / SPREAD)].double()
    gram = (some - some.mean(0)) @ (some - some.mean(0)).T
    square = float(gram.square().sum())
    if not math.isfinite(square):
        return None, constant
    return (float(gram.trace()) ** 2 / square if square else 0.0), constant


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but the per-image predictions."""
    return {**evaluation.summary(), "confusion": evaluation.confusion}
