"""Data source `open-images`."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import fsspec
import numpy as np
import torch
from PIL import Image

from kcframe.builtin.data.open_images.classes import (
    Groups,
    build_taxonomy,
    groups_of_hierarchy,
    groups_of_taxonomy,
)
from kcframe.builtin.data.open_images.files import (
    HUMAN,
    IMAGES,
    Metadata,
    read_descriptions,
    read_hierarchy,
    read_trainable,
    without_secrets,
)
from kcframe.builtin.data.open_images.index import Index, Tables, cached_index, image_name
from kcframe.builtin.data.open_images.options import OpenImagesOptions
from kcframe.builtin.data.stored import StoredPictures
from kcframe.builtin.data.taxonomy_file import read_taxonomy
from kcframe.errors import DataError
from kcframe.interfaces.data import DataSource, Labels
from kcframe.interfaces.pictures import formats_of
from kcframe.interfaces.transform import Transform
from kcframe.taxonomy import Taxonomy

TURNS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270, "exif")
S3 = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "retries": {"max_attempts": 4, "mode": "standard"},
    "max_pool_connections": 64,
}


class OpenImages(DataSource):
    """Labels are read when the taxonomy or a split is first asked for, and kept in this machine's cache."""

    name = "open-images"
    Options = OpenImagesOptions

    def __init__(self, options: OpenImagesOptions):
        super().__init__(options)
        self.channels, self.image_size = 3, options.image_size
        self.max_bad_fraction = options.max_bad_fraction
        self.transform = Transform(channels=3, image_size=options.image_size)

    @property
    def taxonomy(self) -> Taxonomy:
        return self._built[0]

    def split(self, name: str) -> OpenImagesSet:
        return self._built[1][name]

    def describe(self) -> dict[str, object]:
        taxonomy, sets = self._built
        facts: dict[str, object] = {"classes left out": self._left_out}
        for name, images in sets.items():
            facts[f"labels an image, {name}"] = round(len(images.labels.classes) / max(len(images), 1), 2)
            seen = len(images.labels.classes.unique())
            facts[f"classes without {name} images"] = taxonomy.num_classes - seen
        return facts

    @cached_property
    def _metadata(self) -> Metadata:
        return Metadata(self.options.metadata, storage_options(self.options.metadata, self.options.anonymous))

    @cached_property
    def _built(self) -> tuple[Taxonomy, dict[str, OpenImagesSet]]:
        options = self.options
        names = read_descriptions(self._metadata)
        groups = self._groups(names)
        verticals, parents = groups
        # In the taxonomy's order, so that an image's labels stay ascending when they are renumbered.
        mids = list(dict.fromkeys([*(mid for own in verticals.values() for mid in own), *names]))
        above = _closures(mids, parents)
        train = self._index(options.train_split, mids, above)
        counts = np.bincount(train.classes, minlength=len(mids))
        wanted = set(mids)
        if options.trainable_only:
            # With what they are kinds of: a label of a kind that is left out still counts for those.
            trainable = set(read_trainable(self._metadata))
            wanted = {mids[a] for mid, own in zip(mids, above, strict=True) if mid in trainable for a in own}
        kept = [
            mid
            for mid, count in zip(mids, counts, strict=True)
            if count >= options.min_images and mid in wanted
        ]
        taxonomy = build_taxonomy(groups, names, kept, options.rest)
        self._left_out = len(names) - taxonomy.num_classes
        new_ids = _new_ids(mids, names, taxonomy)
        test = self._index(options.test_split, mids, above)
        sets = {
            "train": self._set(options.train_split, train, new_ids),
            "test": self._set(options.test_split, test, new_ids),
        }
        return taxonomy, sets

    def _groups(self, names: dict[str, str]) -> Groups:
        if self.options.verticals == "hierarchy":
            return groups_of_hierarchy(read_hierarchy(self._metadata), names)
        return groups_of_taxonomy(
            read_taxonomy(self.options.verticals, "data.options.verticals"),
            names,
            f"data.options.verticals: {self.options.verticals}",
        )

    def _index(self, split: str, mids: list[str], above: list[list[int]]) -> Index:
        options, metadata = self.options, self._metadata
        files = options.labels.get(split)
        if files is None:
            files = (metadata.need(f"labels of split '{split}'", HUMAN, split=split),)
        images = metadata.find(IMAGES, split=split)
        with_absent = options.unknown == "ignore"
        tables = Tables(
            metadata, tuple(files), images, tuple(mids), above, options.min_confidence, with_absent
        )
        return cached_index(tables, options.cache)

    def _set(self, split: str, index: Index, new_ids: torch.Tensor) -> OpenImagesSet:
        labels = _labels(index.offsets, index.classes, new_ids)
        images = OpenImagesSet(self.options, self.transform, split, index, labels)
        if index.absent is not None:
            images.absent = _labels(index.absent_offsets, index.absent, new_ids)
        return images


def storage_options(url: str, anonymous: bool) -> dict[str, object]:
    """How a storage is to be talked to: patience for s3, credentials only where they are wanted."""
    if not url.startswith(("s3://", "s3a://")):
        return {}
    return {"anon": anonymous, "config_kwargs": S3}


def _closures(mids: list[str], parents: dict[str, list[str]]) -> list[list[int]]:
    """Each class and everything that it is a kind of, as places in `mids`."""
    place = {mid: number for number, mid in enumerate(mids)}
    found = []
    for mid in mids:
        above, queue = {mid: None}, [mid]
        while queue:
            for parent in parents.get(queue.pop(), ()):
                if parent not in above:
                    above[parent] = None
                    queue.append(parent)
        found.append(sorted(place[each] for each in above))
    return found


def _labels(offsets: np.ndarray, classes: np.ndarray, new_ids: torch.Tensor) -> Labels:
    """Renumbered, and ascending within each image."""
    found = Labels(torch.from_numpy(offsets), torch.from_numpy(classes)).restrict(new_ids)
    if bool((new_ids[new_ids >= 0].diff() > 0).all()):
        return found
    # A vertical that is called like `rest`.
    pairs = (found.rows() * len(new_ids) + found.classes).sort().values
    return Labels(found.offsets, (pairs % len(new_ids)).to(torch.int32))


def _new_ids(mids: list[str], names: dict[str, str], taxonomy: Taxonomy) -> torch.Tensor:
    """int64: each MID's class id, -1 for those left out."""
    return torch.tensor([taxonomy.class_ids.get(names[mid], -1) for mid in mids])


class OpenImagesSet(StoredPictures):
    """One split's pictures, behind the URL that the recipe gives."""

    def __init__(
        self, options: OpenImagesOptions, transform: Transform, split: str, index: Index, labels: Labels
    ):
        """labels: of all images of the index, in the taxonomy's ids."""
        root = options.images.partition("{")[0]
        given = storage_options(root, options.anonymous)
        super().__init__(
            root, transform, options.augmentation, options.threads, formats_of(("jpg", "png")), given
        )
        self.split, self.labels = split, labels
        self.ids, self.turns = index.ids, index.turns
        self.shown = without_secrets(options.images)
        try:
            self.path_template = fsspec.url_to_fs(options.images, **given)[1]
        except (ImportError, ValueError) as error:
            raise DataError(f"data.options.images: {self.shown}: {error}") from None

    def name(self, index: int) -> str:
        return self.shown.format(split=self.split, id=image_name(self.ids, index))

    def path(self, index: int) -> str:
        return self.path_template.format(split=self.split, id=image_name(self.ids, index))

    def turn(self, index: int) -> Image.Transpose | Literal["exif"] | None:
        return TURNS[self.turns[index]]
