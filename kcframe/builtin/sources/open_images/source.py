"""Data source `open-images`."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from kcframe.builtin.sources.open_images.classes import (
    Groups,
    build_taxonomy,
    groups_of_hierarchy,
    groups_of_taxonomy,
)
from kcframe.builtin.sources.open_images.files import (
    HUMAN,
    IMAGES,
    Metadata,
    read_descriptions,
    read_hierarchy,
    read_trainable,
)
from kcframe.builtin.sources.open_images.index import Index, Tables, cached_index
from kcframe.builtin.sources.open_images.options import OpenImagesOptions
from kcframe.builtin.sources.open_images.pictures import OpenImagesSet
from kcframe.interfaces.data import DataSource, Labels
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.pictures.taxonomy_file import read_taxonomy
from kcframe.storage.remote import storage_options, without_secrets
from kcframe.taxonomy import Taxonomy


class OpenImages(DataSource):
    """Open Images V3 to V7.

    Labels are read at the first access to the taxonomy or to a split, and cached on this machine.
    """

    name = "open-images"
    Options = OpenImagesOptions
    options: OpenImagesOptions
    transform: Transform

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
        # In the order of the taxonomy, so that an image's labels are still ascending after renumbering.
        mids = list(dict.fromkeys([*(mid for members in verticals.values() for mid in members), *names]))
        above = _closures(mids, parents)
        train = self._index(options.train_split, mids, above)
        counts = np.bincount(train.classes, minlength=len(mids))
        wanted = set(mids)
        if options.trainable_only:
            # With their ancestors: a label of a class that is left out still counts for its ancestors.
            trainable = set(read_trainable(self._metadata))
            wanted = {
                mids[a] for mid, closure in zip(mids, above, strict=True) if mid in trainable for a in closure
            }
        chosen = [
            mid
            for mid, count in zip(mids, counts, strict=True)
            if count >= options.min_images and mid in wanted
        ]
        source = (
            self._metadata.url if options.verticals == "hierarchy" else without_secrets(options.verticals)
        )
        taxonomy = build_taxonomy(groups, names, chosen, options.rest, source)
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
            read_taxonomy(self.options.verticals, "data.options.verticals", self.options.anonymous),
            names,
            f"data.options.verticals: {without_secrets(self.options.verticals)}",
        )

    def _index(self, split: str, mids: list[str], above: list[list[int]]) -> Index:
        options, metadata = self.options, self._metadata
        files = options.labels.get(split)
        if files is None:
            files = (metadata.need(f"labels of split '{split}'", HUMAN, split=split),)
        images = metadata.find(IMAGES, split=split)
        tables = Tables(
            metadata=metadata,
            files=tuple(files),
            images=images,
            mids=tuple(mids),
            above=above,
            min_confidence=options.min_confidence,
            with_absent=options.unknown == "ignore",
            weighted=options.confidence == "weight",
        )
        return cached_index(tables, options.cache)

    def _set(self, split: str, index: Index, new_ids: torch.Tensor) -> OpenImagesSet:
        labels = _labels(index.offsets, index.classes, new_ids, index.confidences)
        images = OpenImagesSet(self.options, self.transform, split, index, labels)
        if index.absent is not None and index.absent_offsets is not None:
            images.absent = _labels(index.absent_offsets, index.absent, new_ids)
        return images


def _closures(mids: list[str], parents: dict[str, list[str]]) -> list[list[int]]:
    """For each class, itself and all its ancestors, as indices into `mids`."""
    place = {mid: number for number, mid in enumerate(mids)}
    closures = []
    for mid in mids:
        above, queue = {mid: None}, [mid]
        while queue:
            for parent in parents.get(queue.pop(), ()):
                if parent not in above:
                    above[parent] = None
                    queue.append(parent)
        closures.append(sorted(place[ancestor] for ancestor in above))
    return closures


def _labels(
    offsets: np.ndarray, classes: np.ndarray, new_ids: torch.Tensor, confidences: np.ndarray | None = None
) -> Labels:
    """Labels with new class ids, ascending within each image. new_ids: int64, -1 leaves a class out."""
    values = None if confidences is None else torch.from_numpy(confidences)
    labels = Labels(torch.from_numpy(offsets), torch.from_numpy(classes), values).restrict(new_ids)
    if bool((new_ids[new_ids >= 0].diff() > 0).all()):
        return labels
    # The order has changed: a vertical of the groups has the same name as `rest`.
    order = (labels.rows() * len(new_ids) + labels.classes).argsort()
    sorted_values = None if labels.values is None else labels.values[order]
    return Labels(labels.offsets, labels.classes[order], sorted_values)


def _new_ids(mids: list[str], names: dict[str, str], taxonomy: Taxonomy) -> torch.Tensor:
    """int64: each MID's class id, -1 if it is left out."""
    return torch.tensor([taxonomy.class_ids.get(names[mid], -1) for mid in mids])
