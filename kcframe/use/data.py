"""Other pictures for a finished student: a recipe's data, or folders of pictures, in its own classes."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import normalize

import torch
from torch import Tensor

from kcframe.assemble import build_source
from kcframe.builtin.data.folder_classes import class_ids
from kcframe.builtin.data.folders import Listing, list_pictures
from kcframe.builtin.data.image_folder import ImageFolderSet
from kcframe.builtin.data.image_folder_options import ImageFolderOptions
from kcframe.errors import DataError
from kcframe.interfaces.data import DataSource, ImageSet, Labels
from kcframe.interfaces.pictures import ENDINGS, formats_of
from kcframe.interfaces.transform import Transform
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run_dir import RECIPE, RunDir
from kcframe.taxonomy import Taxonomy


@dataclass(frozen=True)
class Pictures:
    """Pictures with labels of a taxonomy.

    name: what they are called. labels: of all images. indices: int64, those with a label. unknown: classes of
    the data that the taxonomy lacks.
    """

    name: str
    images: ImageSet
    labels: Labels
    indices: Tensor
    unknown: tuple[str, ...] = ()


def find_pictures(
    data: str | None,
    split: str,
    overrides: Sequence[str],
    run_dir: RunDir,
    taxonomy: Taxonomy,
    transform: Transform,
) -> Pictures:
    """The pictures that `data` names.

    data: a recipe (its data section is used); a folder or URL with pictures in folders called like classes;
    None: the run's own recipe. Raises DataError if no picture has a class of the taxonomy, or if the pictures
    are not of the size that `transform` makes.
    """
    if data is not None and not is_recipe(data):
        listing, root = _listed(data)
        ids = class_ids(listing, taxonomy, "the student")
        images = _images(root, listing, ids, taxonomy, transform)
        return _labelled(listing.name, images, images.labels, ())
    source, name = source_of(data or run_dir.path(RECIPE), overrides, transform)
    images = source.split(split)
    labels, unknown = _renamed(images.labels, source.taxonomy, taxonomy)
    return _labelled(f"{name}, {split}", images, labels, unknown)


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
    listing, root = _listed(url)
    names = sorted({f"/{normalize('NFC', file)}".split("/")[-2] for file in listing.files})
    if "" in names:
        raise DataError(f"{listing.name}: has pictures that lie in no class folder")
    taxonomy = Taxonomy.build({listing.name: names})
    ids = class_ids(listing, taxonomy, listing.name)
    return _images(root, listing, ids, taxonomy, transform), torch.tensor(ids), taxonomy.classes


def _listed(url: str) -> tuple[Listing, str]:
    root, folder = posixpath.split(url.rstrip("/"))
    return list_pictures(root or ".", folder, ENDINGS), root or "."


def _images(
    root: str, listing: Listing, ids: list[int], taxonomy: Taxonomy, transform: Transform
) -> ImageFolderSet:
    options = ImageFolderOptions(
        root=root,
        train="-",
        test=posixpath.basename(listing.name),
        image_size=transform.image_size,
        channels=transform.channels,
        extensions=ENDINGS,
    )
    return ImageFolderSet(options, transform, listing, ids, taxonomy, formats_of(ENDINGS))


def _renamed(labels: Labels, theirs: Taxonomy, ours: Taxonomy) -> tuple[Labels, tuple[str, ...]]:
    """Labels in our ids with our ancestors, and which of their classes we lack."""
    if theirs == ours:
        return labels, ()
    known = {name: class_id for class_id, name in enumerate(ours.classes)}
    new_ids = torch.tensor([known.get(name, -1) for name in theirs.classes])
    kept = labels.restrict(new_ids)
    with_ours = Labels.from_lists(ours.with_ancestors(kept.of(image)) for image in range(len(kept)))
    return with_ours, tuple(name for name in theirs.classes if name not in known)


def _labelled(name: str, images: ImageSet, labels: Labels, unknown: tuple[str, ...]) -> Pictures:
    indices = (labels.offsets.diff() > 0).nonzero().flatten()
    if not len(indices):
        missing = f" (it has {', '.join(unknown[:5])} …)" if unknown else ""
        raise DataError(f"{name}: no picture has a class that the student knows{missing}")
    return Pictures(name, images, labels, indices, unknown)
