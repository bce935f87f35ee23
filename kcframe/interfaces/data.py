"""The interface of data sources: images and labels.

A source has a taxonomy and one image set per split. An image set has the labels of all its images without
decoding them, and loads pictures in batches. All randomness of a picture is a function of the key that is
passed with it. So a picture does not depend on order, batch size or number of workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.taxonomy import Taxonomy

LIKELY = 0.5


@dataclass(frozen=True)
class Labels:
    """Multi-label targets of n images, sparse: image i has `classes[offsets[i]:offsets[i+1]]`.

    offsets: int64 [n+1]. classes: int32 [total], class ids, ascending within an image, with all ancestors
    (`Taxonomy.with_ancestors`). values: float32 [total] in (0, 1], the labels' confidences, which are the
    targets of eq. 1; None: all 1. Figures count labels with a confidence of LIKELY or more.
    """

    offsets: Tensor
    classes: Tensor
    values: Tensor | None = None

    @classmethod
    def from_lists(cls, labels: Iterable[Iterable[int]]) -> Labels:
        """From one list of class ids per image."""
        rows = [list(row) for row in labels]
        counts = torch.tensor([0] + [len(row) for row in rows], dtype=torch.int64)
        flat = [class_id for row in rows for class_id in row]
        return cls(counts.cumsum(0), torch.tensor(flat, dtype=torch.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, index: int) -> list[int]:
        """The class ids of one image."""
        return self.classes[self.offsets[index] : self.offsets[index + 1]].tolist()

    def rows(self) -> Tensor:
        """int64 [total]: the image that each entry of `classes` belongs to."""
        return torch.repeat_interleave(torch.arange(len(self)), self.offsets.diff())

    def sure(self) -> Tensor:
        """float32 [total]: the confidences; all 1 if the data has none."""
        return torch.ones(len(self.classes)) if self.values is None else self.values

    def likely(self) -> Labels:
        """Labels with confidence >= 0.5 (LIKELY); all labels if the data has no confidences."""
        if self.values is None:
            return self
        return self._some(self.values >= LIKELY, self.classes)

    def restrict(self, new_ids: Tensor) -> Labels:
        """The labels of some classes, renumbered. new_ids: int [N], each class's new id; -1 leaves it out."""
        renumbered = new_ids.to(torch.int32)[self.classes.long()]
        return self._some(renumbered >= 0, renumbered)

    def _some(self, mask: Tensor, classes: Tensor) -> Labels:
        counts = torch.bincount(self.rows()[mask], minlength=len(self))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Labels(offsets, classes[mask], None if self.values is None else self.values[mask])

    def take(self, indices: Tensor) -> Labels:
        """The labels of some images, in the order of `indices` (int64 [B])."""
        counts = self.offsets.diff()[indices]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        within = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1], counts)
        taken = torch.repeat_interleave(self.offsets[indices], counts) + within
        return Labels(offsets, self.classes[taken], None if self.values is None else self.values[taken])


def known_images(labels: Labels, absent: Labels | None = None) -> Tensor:
    """int64: the images that have a label or a class that is known to be absent."""
    num_known = labels.offsets.diff()
    if absent is not None:
        num_known = num_known + absent.offsets.diff()
    return (num_known > 0).nonzero().flatten()


@dataclass(frozen=True)
class ReadCost:
    """The mean cost of reading one picture.

    requests: to the storage. bytes: that it sends. room: bytes of pictures, of both splits together, that a
    machine can keep. If all pictures fit, each is fetched once, else at every read.
    """

    requests: float
    bytes: float
    room: float


class ImageSet(ABC):
    """The images of one split. `labels` has one entry per image."""

    labels: Labels

    absent: Labels | None = None
    """For each image, the classes that are known to be absent. None: all classes that are not labels.

    Otherwise a class that is neither a label nor absent is unknown: hard targets and average precision ignore
    it.
    """

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        """Pictures as float32 [B, C, H, W] in 0..1, with the source's number of channels and size.

        indices: int64 [B]. keys: int64 [B], one per picture, the only source of randomness for its
        augmentation; None: pictures without augmentation (evaluation). Raises DataError, naming the file, for
        a picture that cannot be read.
        """

    def load_readable(self, indices: Tensor, keys: Tensor | None) -> tuple[Tensor, dict[int, str]]:
        """Like `load`, but a picture that cannot be read is no error.

        Returns the pictures, and row -> reason, with the file's name, for the rows that have no picture.
        Errors that are not of the picture itself (the storage fails) are still raised.
        """
        return self.load(indices, keys), {}

    def read_cost(self) -> ReadCost | None:
        """The cost of reading for the storage; None if pictures are computed or in memory."""
        return None

    @property
    def groups(self) -> Tensor | None:
        """int64 [n]: a group number per image; None: every image is its own group.

        A validation split never splits a group. Give images the same number if they have something in common,
        for example a font face, a film or a patient.
        """
        return None

    @property
    def told_apart(self) -> dict[str, Tensor]:
        """Name -> bool [n]: subsets of the images for which mpvap is also reported separately.

        For example images of films that training uses, and images of other films.
        """
        return {}

    def name(self, index: int) -> str:
        """Name of an image in errors and reports, for example its file name."""
        return f"image {index}"


class DataSource(ABC):
    """Subclass it, give it a `name` and `Options`, and return it from the hook `kcframe_data`.

    class Mine(DataSource):
        name = "mine"
        Options = MyOptions
        channels, image_size = 3, 224

        @property
        def taxonomy(self): ...
        def split(self, name): ...
    """

    name: ClassVar[str]
    Options: ClassVar[type[PluginOptions]] = PluginOptions
    channels: int
    image_size: int

    def __init__(self, options: PluginOptions):
        self.options = options

    @property
    @abstractmethod
    def taxonomy(self) -> Taxonomy:
        """The classes, verticals and parents of all splits."""

    @abstractmethod
    def split(self, name: str) -> ImageSet:
        """The images of 'train' or 'test'. No picture is in both."""

    max_bad_fraction: float = 0.0
    """The share of images that may be missing or damaged.

    Such images are skipped, counted and listed. If there are more, the run stops; with 0 it stops at the
    first one.
    """

    transform: Transform | None = None
    """Converts any picture to the form that `load` returns without keys.

    It is stored with trained networks, so that they can be used without the source. None: the middle square,
    resized to `image_size`.
    """

    def describe(self) -> dict[str, object]:
        """Facts for the run directory and the report: counts, and what was left out for which reason."""
        return {}
