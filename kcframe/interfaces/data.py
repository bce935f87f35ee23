"""The interface of data sources: where images and labels come from.

A source knows its taxonomy and has image sets, one a split. An image set knows all its labels without
decoding a picture, and makes pictures a batch at a time. Everything random about a picture comes from
the key it is given, so order, batch size and the number of workers never change what an image is.
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

    offsets: int64 [n+1]; classes: int32 [total], class ids, ascending within an image, with all
    ancestors already in (`Taxonomy.with_ancestors`). values: float32 [total], in (0, 1], how sure each label
    is: what it is as a target of eq. 1; None: all 1. Figures count those of LIKELY and more.
    """

    offsets: Tensor
    classes: Tensor
    values: Tensor | None = None

    @classmethod
    def from_lists(cls, labels: Iterable[Iterable[int]]) -> Labels:
        """From one list of class ids an image."""
        rows = [list(row) for row in labels]
        counts = torch.tensor([0] + [len(row) for row in rows], dtype=torch.int64)
        flat = [class_id for row in rows for class_id in row]
        return cls(counts.cumsum(0), torch.tensor(flat, dtype=torch.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, index: int) -> list[int]:
        """Class ids of one image."""
        return self.classes[self.offsets[index] : self.offsets[index + 1]].tolist()

    def rows(self) -> Tensor:
        """int64 [total]: the image that each entry of `classes` belongs to."""
        return torch.repeat_interleave(torch.arange(len(self)), self.offsets.diff())

    def sure(self) -> Tensor:
        """float32 [total]: `values`, or 1 for each where nothing is doubted."""
        return torch.ones(len(self.classes)) if self.values is None else self.values

    def likely(self) -> Labels:
        """Those of which nobody doubts, or of which more doubt that they are wrong."""
        if self.values is None:
            return self
        return self._some(self.values >= LIKELY, self.classes)

    def restrict(self, new_ids: Tensor) -> Labels:
        """Only some classes, renumbered. new_ids: int [N], each class's new id, -1 to leave it out."""
        renumbered = new_ids.to(torch.int32)[self.classes.long()]
        return self._some(renumbered >= 0, renumbered)

    def _some(self, kept: Tensor, classes: Tensor) -> Labels:
        counts = torch.bincount(self.rows()[kept], minlength=len(self))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Labels(offsets, classes[kept], None if self.values is None else self.values[kept])

    def take(self, indices: Tensor) -> Labels:
        """The labels of some images, in the order asked for. indices: int64 [B]."""
        counts = self.offsets.diff()[indices]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        within = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1], counts)
        taken = torch.repeat_interleave(self.offsets[indices], counts) + within
        return Labels(offsets, self.classes[taken], None if self.values is None else self.values[taken])


def known_images(labels: Labels, absent: Labels | None = None) -> Tensor:
    """int64: the images that have a label, or something that is known to be absent."""
    known = labels.offsets.diff()
    if absent is not None:
        known = known + absent.offsets.diff()
    return (known > 0).nonzero().flatten()


@dataclass(frozen=True)
class ReadCost:
    """Of one picture, on average: requests to the storage, and bytes that it sends. room: bytes of pictures,
    of both splits together, that a machine keeps: if they are no more, each is paid for once, else each
    time that it is read."""

    requests: float
    bytes: float
    room: float


class ImageSet(ABC):
    """The images of one split. `labels` has one entry an image."""

    labels: Labels

    absent: Labels | None = None
    """Classes that are known not to be in each image. None: all that are not labels. Otherwise what is
    neither a label nor absent is unknown: hard targets and average precision leave it out."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        """Pictures as float32 [B, C, H, W] in 0..1, all of the source's channels and size.

        indices: int64 [B]. keys: int64 [B], one a picture, the only source of randomness for its
        augmentation; None asks for the picture without augmentation (evaluation).
        Raises DataError, naming the file, for a picture that cannot be read.
        """

    def load_readable(self, indices: Tensor, keys: Tensor | None) -> tuple[Tensor, dict[int, str]]:
        """As `load`, but a picture that cannot be read is no error.

        Returns the pictures, and for each row that holds none the reason, which names the file. What says
        nothing of the picture itself (a storage that fails) is raised all the same.
        """
        return self.load(indices, keys), {}

    def read_cost(self) -> ReadCost | None:
        """What reading costs the storage; None: pictures are made, or lie in memory."""
        return None

    @property
    def groups(self) -> Tensor | None:
        """int64 [n]: images with the same number have something in common that a validation cut must not
        split (a font face, a film, a patient); None if every image stands for itself."""
        return None

    @property
    def told_apart(self) -> dict[str, Tensor]:
        """Name -> bool [n]: images of which mpvap is also told by themselves, say, of films that training
        knows, and of others."""
        return {}

    def name(self, index: int) -> str:
        """What to call an image in errors and reports: a file name, say."""
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
        """The images of 'train' or 'test'. They share nothing: no picture is in both."""

    max_bad_fraction: float = 0.0
    """The share of images that may be missing or damaged: they are skipped, counted and listed. More stop the
    run; with 0 the first one does."""

    transform: Transform | None = None
    """What makes of a picture from elsewhere what `load` gives without keys; kept with the networks that are
    trained, so that they can be used without the source. None: the middle square, in this size."""

    def describe(self) -> dict[str, object]:
        """Facts for the run directory and report: counts, what was left out and why."""
        return {}
