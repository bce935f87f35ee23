"""Data source `image-folder`: folders of pictures, one folder per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from kcframe.builtin.sources.image_folder_options import ImageFolderOptions
from kcframe.interfaces.data import DataSource, Labels
from kcframe.interfaces.toolkit.pictures import formats_of
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.pictures.folder_classes import class_ids, taxonomy_of_folders
from kcframe.pictures.folders import Listing, list_pictures
from kcframe.pictures.stores.disk_cache import DiskCache
from kcframe.pictures.stores.options import Augmentation
from kcframe.pictures.stores.pictures import StoredPictures, picture_cache, picture_counts
from kcframe.pictures.stores.store import Place, PlacedStore
from kcframe.pictures.taxonomy_file import read_taxonomy
from kcframe.storage.remote import without_secrets
from kcframe.taxonomy import Taxonomy


class ImageFolder(DataSource):
    """Pictures in root/train and root/test; a picture's class is its innermost folder.

    Without a taxonomy file, pictures are in <vertical>/<class>/. Class folders of the same name in two
    verticals are one class that belongs to both. With a taxonomy file, pictures may be at any depth, and a
    class may have no pictures. Names that begin with a dot are left out. Both splits are listed at the first
    access to the taxonomy or to a split. Raises DataError then if a folder is missing or empty, or if a class
    is unknown.
    """

    name = "image-folder"
    Options = ImageFolderOptions
    options: ImageFolderOptions
    transform: Transform

    def __init__(self, options: ImageFolderOptions):
        super().__init__(options)
        self.channels, self.image_size = options.channels, options.image_size
        self.max_bad_fraction = options.max_bad_fraction
        self.transform = Transform(channels=options.channels, image_size=options.image_size)

    @cached_property
    def _built(self) -> tuple[Taxonomy, dict[str, ImageFolderSet], Counter[str]]:
        options = self.options
        formats = formats_of(options.extensions)
        train = list_pictures(options.root, options.train, options.extensions, options.anonymous)
        test = list_pictures(options.root, options.test, options.extensions, options.anonymous)
        if options.taxonomy is None:
            taxonomy = taxonomy_of_folders(train, test)
        else:
            taxonomy = read_taxonomy(options.taxonomy, anonymous=options.anonymous)
        sets = {
            name: ImageFolderSet(
                listing,
                class_ids(listing, taxonomy, without_secrets(options.taxonomy or "")),
                taxonomy,
                self.transform,
                formats,
                augmentation=options.augmentation,
                threads=options.threads,
                store=ListedFiles(listing, options.anonymous, picture_cache(options)),
            )
            for name, listing in (("train", train), ("test", test))
        }
        return taxonomy, sets, train.left_out + test.left_out

    @property
    def taxonomy(self) -> Taxonomy:
        return self._built[0]

    def split(self, name: str) -> ImageFolderSet:
        return self._built[1][name]

    def describe(self) -> dict[str, object]:
        taxonomy, sets, left_out = self._built
        facts = picture_counts(taxonomy, sets)
        places = np.bincount(taxonomy.slot_class)
        facts["classes in several verticals"] = int((places > 1).sum())
        return facts | {"files left out": dict(sorted(left_out.items()))}


class ImageFolderSet(StoredPictures):
    """The pictures below one folder."""

    def __init__(
        self,
        listing: Listing,
        class_ids: Sequence[int],
        taxonomy: Taxonomy,
        transform: Transform,
        formats: Sequence[str],
        *,
        augmentation: Augmentation = "none",
        threads: int = 4,
        store: ListedFiles | None = None,
    ):
        """class_ids: one per entry of `listing.files`. formats: Pillow's names of the allowed formats.

        store: of the pictures; None: the files of the listing, without a cache.
        """
        by_class = Labels.from_lists(taxonomy.with_ancestors([c]) for c in range(taxonomy.num_classes))
        labels = by_class.take(torch.tensor(class_ids))
        self.listing = listing
        store = store or ListedFiles(listing)
        super().__init__(store, labels, transform, formats, augmentation, threads=threads)


class ListedFiles(PlacedStore):
    """The files of a listing."""

    def __init__(self, listing: Listing, anonymous: bool = False, cache: DiskCache | None = None):
        super().__init__(listing.root, anonymous, cache)
        self.listing = listing

    def name(self, index: int) -> str:
        return f"{self.listing.name}/{self.listing.files[index]}"

    def place(self, index: int) -> Place:
        return Place(f"{self.listing.folder}/{self.listing.files[index]}")
