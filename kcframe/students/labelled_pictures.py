"""Other pictures for a finished student: a recipe's data, or folders of pictures, in its own classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from unicodedata import normalize

import torch
from torch import Tensor

from kcframe.build.source import build_source
from kcframe.builtin.sources.image_folder import ImageFolderSet
from kcframe.engine.data.split import Split
from kcframe.errors import DataError
from kcframe.interfaces.data import DataSource, ImageSet, Labels
from kcframe.interfaces.toolkit.pictures import ENDINGS, EVERY_FORMAT
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.pictures.folder_classes import class_ids
from kcframe.pictures.folders import list_folder
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.storage.layout import RECIPE
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

ALL_MAY_BE_BAD = 1.0  # of a folder's pictures: those that cannot be read are told


@dataclass(frozen=True)
class Pictures:
    """Pictures with labels of a taxonomy.

    name: what they are called. split: those with a label. split_name: of a recipe's data, else None. unknown:
    classes of the data that the taxonomy lacks.
    """

    name: str
    split: Split
    split_name: str | None = None
    unknown: tuple[str, ...] = ()

    @property
    def num_left_out(self) -> int:
        """Pictures without a class that the taxonomy has."""
        return len(self.split.images) - len(self.split)


def find_pictures(
    data: str | None,
    split: str | None,
    overrides: Sequence[str],
    run_dir: RunDir,
    taxonomy: Taxonomy,
    transform: Transform,
) -> Pictures:
    """The pictures that `data` names.

    data: a recipe (its data section is used); a folder or URL with pictures in folders called like classes;
    None: the run's own recipe. split: 'train' or 'test' (None) of a recipe's data. Raises DataError if no
    picture has a class of the taxonomy, or if the pictures are not of the size that `transform` makes.
    """
    if data is not None and not is_recipe(data):
        refuse_for_folder(data, overrides, split)
        listing = list_folder(data, ENDINGS)
        ids = class_ids(listing, taxonomy, "the student")
        images = ImageFolderSet(listing, ids, taxonomy, transform, EVERY_FORMAT)
        return _labelled(listing.name, Split.whole(images, ALL_MAY_BE_BAD))
    source, name = source_of(data or run_dir.path(RECIPE), overrides, transform)
    images = source.split(split or "test")
    labels, unknown, new_ids = _renamed(images.labels, source.taxonomy, taxonomy)
    absent = None if images.absent is None else images.absent.restrict(new_ids)
    known = replace(Split.of(source, split or "test"), labels=labels, absent=absent)
    pictures = _labelled(f"{name}, {split or 'test'}", known, unknown)
    return replace(pictures, split_name=split or "test")


def refuse_for_folder(data: str, overrides: Sequence[str], split: str | None = None) -> None:
    """DataError for what only a recipe has."""
    if overrides or split is not None:
        option = "--set" if overrides else "--split"
        raise DataError(f"{option} is for recipes, {data} is a folder (recipes end in .yaml or .yml)")


def is_recipe(data: str) -> bool:
    return data.endswith((".yaml", ".yml"))


def source_of(recipe_url: str, overrides: Sequence[str], transform: Transform) -> tuple[DataSource, str]:
    """A recipe's data source and its name. DataError if its pictures are not what `transform` makes."""
    recipe = load_recipe(recipe_url, installed(), overrides)
    source = build_source(recipe)
    have, want = (source.channels, source.image_size), (transform.channels, transform.image_size)
    if have != want:
        raise DataError(
            f"{recipe.data.name}: its pictures are {have[0]} x {have[1]} x {have[1]}, the student takes "
            f"{want[0]} x {want[1]} x {want[1]}: --set data.options.image_size={want[1]} may help"
        )
    return source, recipe.data.name


def folder_of_classes(url: str, transform: Transform) -> tuple[ImageSet, Tensor, tuple[str, ...]]:
    """Pictures in folders, each folder a class: (images, class of each int64 [n], names)."""
    listing = list_folder(url, ENDINGS)
    names = sorted({f"/{normalize('NFC', file)}".split("/")[-2] for file in listing.files})
    if "" in names:
        raise DataError(f"{listing.name}: has pictures that lie in no class folder")
    taxonomy = Taxonomy.build({listing.name: names})
    ids = class_ids(listing, taxonomy, listing.name)
    images = ImageFolderSet(listing, ids, taxonomy, transform, EVERY_FORMAT)
    return images, torch.tensor(ids), taxonomy.classes


def _renamed(labels: Labels, theirs: Taxonomy, ours: Taxonomy) -> tuple[Labels, tuple[str, ...], Tensor]:
    """Labels in our ids with our ancestors, which of their classes we lack, and their ids' new ones."""
    if theirs == ours:
        return labels, (), torch.arange(ours.num_classes)
    known = ours.class_ids
    new_ids = torch.tensor([known.get(name, -1) for name in theirs.classes])
    kept = labels.likely().restrict(new_ids)
    with_ours = Labels.from_lists(ours.with_ancestors(kept.of(image)) for image in range(len(kept)))
    return with_ours, tuple(name for name in theirs.classes if name not in known), new_ids


def _labelled(name: str, split: Split, unknown: tuple[str, ...] = ()) -> Pictures:
    known = split.that_can_be_measured_on()
    if not len(known):
        missing = f" (it has {', '.join(unknown[:5])} …)" if unknown else ""
        raise DataError(f"{name}: no picture has a class that the student knows{missing}")
    return Pictures(name, known, unknown=unknown)
