"""Images with all that is known of them, whole, from the data source to batches and evaluation.

Shapes: n images of a data source's split, N classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kcframe.engine.data.holdout import held_out
from kcframe.errors import DataError
from kcframe.interfaces.data import DataSource, ImageSet, Labels, known_images
from kcframe.recipe.schema import Evaluation


@dataclass(frozen=True)
class Split:
    """Some images of a data source's split.

    images: all n images of it. labels, absent: of all n, in one numbering of classes (see `ImageSet.absent`).
    indices: int64, the images to use. max_bad_fraction: the share of the n images that may be unreadable.
    """

    images: ImageSet
    labels: Labels
    indices: Tensor
    absent: Labels | None = None
    max_bad_fraction: float = 0.0

    @classmethod
    def of(cls, source: DataSource, name: str) -> Split:
        """All images of a source's split, 'train' or 'test', in the source's class ids."""
        return cls.whole(source.split(name), source.max_bad_fraction)

    @classmethod
    def whole(cls, images: ImageSet, max_bad_fraction: float = 0.0) -> Split:
        """All images of a set."""
        everything = torch.arange(len(images))
        return cls(images, images.labels, everything, images.absent, max_bad_fraction)

    def __len__(self) -> int:
        return len(self.indices)

    def renumbered(self, new_ids: Tensor) -> Split:
        """Only some classes, with other ids. new_ids: int64 [N], -1 leaves a class out."""
        absent = None if self.absent is None else self.absent.restrict(new_ids)
        return replace(self, labels=self.labels.restrict(new_ids), absent=absent)

    def only(self, indices: Tensor) -> Split:
        """Other images of the same n. indices: int64."""
        return replace(self, indices=indices)

    def that_can_be_learned_from(self) -> Split:
        """The images with a likely label.

        No teacher speaks for an image without one, so that eq. 2 would say that all its classes are absent.
        """
        return self.only(known_images(self.labels.likely()))

    def that_can_be_measured_on(self) -> Split:
        """The images with a likely label, or with a class that is known to be absent."""
        return self.only(known_images(self.labels.likely(), self.absent))

    def chosen_labels(self) -> Labels:
        """The labels of `indices`, in their order."""
        return self.labels.take(self.indices)

    def chosen_absent(self) -> Labels | None:
        """`absent` of `indices`, in their order."""
        return None if self.absent is None else self.absent.take(self.indices)


def learned_and_measured(
    source: DataSource, evaluation: Evaluation, seed: int, new_ids: Tensor
) -> tuple[Split, Split]:
    """What a network learns from, and what it is measured on: the test split, or a cut of the train split.

    new_ids: int64 [N], each class's id in the network, -1 if it has no output for it. All arms see the same
    images. Raises DataError if no validation split can be cut off.
    """
    train = Split.of(source, "train").renumbered(new_ids)
    learned = train.that_can_be_learned_from()
    if evaluation.split == "test":
        test = Split.of(source, "test").renumbered(new_ids)
        return learned, test.that_can_be_measured_on()
    images = train.images
    held = held_out(images.groups, len(images), evaluation.share, seed, images.labels.likely())
    if not held.any():
        raise DataError("evaluation.split: the training images are all of one group: none can be cut off")
    measured = train.that_can_be_measured_on()
    return (
        learned.only(learned.indices[~held[learned.indices]]),
        measured.only(measured.indices[held[measured.indices]]),
    )
