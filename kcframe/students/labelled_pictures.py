"""Labelled pictures for a finished student, from a recipe's data or folders, with the student's ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from unicodedata import normalize

import torch
from torch import Tensor

from kcframe.assembly.source import build_source
from kcframe.builtin.sources.image_folder import ImageFolderSet
from kcframe.engine.data.split import Split
from kcframe.errors import DataError
from kcframe.interfaces.data import DataSource, ImageSet, Labels
from kcframe.interfaces.toolkit.pictures import ENDINGS, EVERY_FORMAT
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.pictures.folder_classes import class_ids
from kcframe.pictures.folders import list_folder
from kcframe.pictures.stores.pictures import is_picture_cache
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.storage.layout import RECIPE
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

ALL_MAY_BE_BAD = 1.0  # a folder may have any number of unreadable pictures: they are reported


@dataclass(frozen=True)
class Pictures:
    """Pictures with labels of a taxonomy.

    name: for people. split: the pictures that have a label. split_name: 'train' or 'test' for the data of a
    recipe, else None. unknown: classes of the data that are not in the taxonomy.
    """

    name: str
    split: Split
    split_name: str | None = None
    unknown: tuple[str, ...] = ()

    @property
    def num_left_out(self) -> int:
        """Number of pictures without a class of the taxonomy."""
        return len(self.split.images) - len(self.split)


def find_pictures(
    data: str | None,
    split: str | None,
    overrides: Sequence[str],
    run_dir: RunDir,
    taxonomy: Taxonomy,
    *,
    transform: Transform,
) -> Pictures:
    """The pictures that `data` names.

    data: a recipe (its data section is used), or a folder or URL with pictures in folders with class names;
    None: the run's own recipe. split: of a recipe's data, 'train' or 'test'; None: 'test'. Raises DataError
    if no picture has a class of the taxonomy, or if the size of the pictures is not that of `transform`.
    """
    if data is not None and not is_recipe(data):
        refuse_for_folder(data, overrides, split)
        listing = list_folder(data, ENDINGS)
        ids = class_ids(listing, taxonomy, "the student")
        listed = ImageFolderSet(listing, ids, taxonomy, transform, EVERY_FORMAT)
        return _labelled(listing.name, Split.whole(listed, ALL_MAY_BE_BAD))
    # A run directory of somebody else's never decides where this machine keeps pictures.
    source, name = source_of(data or run_dir.path(RECIPE), overrides, transform, data is None)
    images = source.split(split or "test")
    labels, unknown, new_ids = _renamed(images.labels, source.taxonomy, taxonomy)
    absent = None if images.absent is None else images.absent.restrict(new_ids)
    renamed = replace(Split.of(source, split or "test"), labels=labels, absent=absent)
    pictures = _labelled(f"{name}, {split or 'test'}", renamed, unknown)
    return replace(pictures, split_name=split or "test")


def refuse_for_folder(data: str, overrides: Sequence[str], split: str | None = None) -> None:
    """Raises DataError if options are set that only a recipe can have."""
    if overrides or split is not None:
        option = "--set" if overrides else "--split"
        raise DataError(f"{option} is for recipes, {data} is a folder (recipes end in .yaml or .yml)")


def is_recipe(data: str) -> bool:
    return data.endswith((".yaml", ".yml"))


def source_of(
    recipe_url: str, overrides: Sequence[str], transform: Transform, places_of_others: bool = False
) -> tuple[DataSource, str]:
    """A recipe's data source and its name. Raises DataError if its pictures do not fit `transform`.

    places_of_others: the recipe may be somebody else's: of the folder that it names for a cache, only one
    that is this user's cache already is used.
    """
    recipe = load_recipe(recipe_url, installed(), overrides)
    cache = recipe.data.options.get("cache")
    named_here = any(given.startswith("data.options.cache=") for given in overrides)
    if places_of_others and not named_here and isinstance(cache, str) and not is_picture_cache(cache):
        options = {name: value for name, value in recipe.data.options.items() if name != "cache"}
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"options": options})})
    source = build_source(recipe)
    have, want = (source.channels, source.image_size), (transform.channels, transform.image_size)
    if have != want:
        raise DataError(
            f"{recipe.data.name}: its pictures are {have[0]} x {have[1]} x {have[1]}, the student takes "
            f"{want[0]} x {want[1]} x {want[1]}: --set data.options.image_size={want[1]} may help"
        )
    return source, recipe.data.name


def folder_of_classes(url: str, transform: Transform) -> tuple[ImageSet, Tensor, tuple[str, ...]]:
    """Pictures in folders, one folder per class: (images, class of each image int64 [n], class names)."""
    listing = list_folder(url, ENDINGS)
    names = sorted({f"/{normalize('NFC', file)}".split("/")[-2] for file in listing.files})
    if "" in names:
        raise DataError(f"{listing.name}: has pictures that lie in no class folder")
    taxonomy = Taxonomy.build({listing.name: names})
    ids = class_ids(listing, taxonomy, listing.name)
    images = ImageFolderSet(listing, ids, taxonomy, transform, EVERY_FORMAT)
    return images, torch.tensor(ids), taxonomy.classes


def _renamed(labels: Labels, theirs: Taxonomy, ours: Taxonomy) -> tuple[Labels, tuple[str, ...], Tensor]:
    """(labels with our ids and our ancestors, their classes that we lack, our id for each of their ids)."""
    if theirs == ours:
        return labels, (), torch.arange(ours.num_classes)
    our_ids = ours.class_ids
    new_ids = torch.tensor([our_ids.get(name, -1) for name in theirs.classes])
    in_both = labels.likely().restrict(new_ids)
    with_ours = Labels.from_lists(ours.with_ancestors(in_both.of(image)) for image in range(len(in_both)))
    return with_ours, tuple(name for name in theirs.classes if name not in our_ids), new_ids


def _labelled(name: str, split: Split, unknown: tuple[str, ...] = ()) -> Pictures:
    measurable = split.that_can_be_measured_on()
    if not len(measurable):
        missing = f" (it has {', '.join(unknown[:5])} …)" if unknown else ""
        raise DataError(f"{name}: no picture has a class that the student knows{missing}")
    return Pictures(name, measurable, unknown=unknown)
