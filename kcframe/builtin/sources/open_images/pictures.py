"""Open Images' pictures: single files, or members of tar shards."""

from __future__ import annotations

from typing import Literal

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from kcframe.builtin.sources.open_images.index import Index, image_name, image_numbers
from kcframe.builtin.sources.open_images.options import OpenImagesOptions, in_shards
from kcframe.errors import DataError
from kcframe.interfaces.data import Labels
from kcframe.interfaces.toolkit.pictures import formats_of
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.pictures.stores.disk_cache import DiskCache
from kcframe.pictures.stores.files import find_files
from kcframe.pictures.stores.pictures import StoredPictures, picture_cache
from kcframe.pictures.stores.store import Place, PlacedStore, Store
from kcframe.pictures.stores.tar import TarMembers, list_members, places_of
from kcframe.storage.remote import storage_options, without_secrets

TURNS: tuple[Image.Transpose | Literal["exif"] | None, ...] = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    "exif",
)
MEMBER = r"(?:^|/)(?P<id>[0-9a-fA-F]{16})\.(?:jpg|jpeg|png)$"


class OpenImagesSet(StoredPictures):
    """The pictures of one split."""

    def __init__(
        self, options: OpenImagesOptions, transform: Transform, split: str, index: Index, labels: Labels
    ):
        """labels: of all images of the index, in the taxonomy's ids."""
        store = (_in_shards if in_shards(options.images) else _in_files)(options, split, index.ids)
        formats = formats_of(("jpg", "png"))
        super().__init__(store, labels, transform, formats, options.augmentation, threads=options.threads)
        self.ids, self.turns = index.ids, index.turns

    def turn(self, index: int) -> Image.Transpose | Literal["exif"] | None:
        return TURNS[self.turns[index]]


def _in_files(options: OpenImagesOptions, split: str, ids: np.ndarray) -> Store:
    return _Files(options.images, split, ids, options.anonymous, picture_cache(options))


class _Files(PlacedStore):
    """A store with one file per picture; the file's address contains the image's id."""

    def __init__(
        self, images: str, split: str, ids: np.ndarray, anonymous: bool, cache: DiskCache | None = None
    ):
        root = images.partition("{")[0]
        super().__init__(root, anonymous, cache)
        self.split, self.ids = split, ids
        self.shown = without_secrets(images)
        try:
            self.template = fsspec.url_to_fs(images, **storage_options(root, anonymous))[1]
        except (ImportError, ValueError) as error:
            raise DataError(f"data.options.images: {self.shown}: {error}") from None

    def name(self, index: int) -> str:
        return self.shown.format(split=self.split, id=image_name(self.ids, index))

    def place(self, index: int) -> Place:
        return Place(self.template.format(split=self.split, id=image_name(self.ids, index)))


def _in_shards(options: OpenImagesOptions, split: str, ids: np.ndarray) -> Store:
    """Finds members by the image's id, in any shard and folder."""
    option = "data.options.images"
    shards = find_files([options.images.replace("{split}", split)], option, options.anonymous)
    members = list_members(shards, (), options.cache)
    ids_of_members = pc.struct_field(pc.extract_regex(members["name"].combine_chunks(), MEMBER), "id")
    there = np.flatnonzero(pc.is_valid(ids_of_members).to_numpy(zero_copy_only=False))
    named = pc.drop_null(ids_of_members)
    if not len(named):
        raise DataError(f"{option}: {shards.urls[0]}: no picture in it is called like an image (ID.jpg)")
    numbers, _ = image_numbers(named)  # MEMBER has checked their digits
    order = numbers.argsort(kind="stable")
    place = np.searchsorted(numbers, ids, sorter=order).clip(0, len(order) - 1)
    rows = np.where(numbers[order[place]] == ids, there[order[place]], -1)
    names = pa.array([image_name(ids, image) for image in range(len(ids))])
    return TarMembers(shards, names, places_of(members, rows), options.anonymous, picture_cache(options))
