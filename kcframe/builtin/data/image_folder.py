"""Data source `image-folder`: folders of pictures, one folder a class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import repeat
from typing import NamedTuple

import fsspec
import numpy as np
import torch
from torch import Tensor

from kcframe.builtin.data.crops import TRIES, random_box
from kcframe.builtin.data.folder_classes import class_ids, taxonomy_of_folders
from kcframe.builtin.data.folders import Listing, list_pictures
from kcframe.builtin.data.image_folder_options import ImageFolderOptions
from kcframe.builtin.data.taxonomy_file import read_taxonomy
from kcframe.errors import DataError, StorageError
from kcframe.interfaces.data import DataSource, ImageSet, Labels
from kcframe.interfaces.pictures import decode, formats_of
from kcframe.interfaces.randomness import keyed_uniforms
from kcframe.interfaces.transform import Transform
from kcframe.storage import HOPELESS, PAUSES, patiently
from kcframe.taxonomy import Taxonomy


class ImageFolder(DataSource):
    """Pictures in root/train and root/test, the class being the folder that a picture lies in.

    Without a taxonomy file they lie in <vertical>/<class>/; a class folder in two verticals is one class
    that stands in both. With one they lie at any depth, and its classes need no pictures. Names that begin
    with a dot are left out. Both splits are listed when either, or the taxonomy, is first asked for;
    DataError if a folder is missing or empty or a class is unknown.
    """

    name = "image-folder"
    Options = ImageFolderOptions

    def __init__(self, options: ImageFolderOptions):
        super().__init__(options)
        self.channels, self.image_size = options.channels, options.image_size
        self.transform = Transform(channels=options.channels, image_size=options.image_size)

    @cached_property
    def _built(self) -> tuple[Taxonomy, dict[str, ImageFolderSet], Counter[str]]:
        options = self.options
        formats = formats_of(options.extensions)
        train = list_pictures(options.root, options.train, options.extensions)
        test = list_pictures(options.root, options.test, options.extensions)
        if options.taxonomy is None:
            taxonomy = taxonomy_of_folders(train, test)
        else:
            taxonomy = read_taxonomy(options.taxonomy)
        sets = {
            name: ImageFolderSet(
                options,
                self.transform,
                listing,
                class_ids(listing, taxonomy, options.taxonomy),
                taxonomy,
                formats,
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
        facts: dict[str, object] = {f"{name} pictures": len(images) for name, images in sets.items()}
        for name, images in sets.items():
            # Ancestors are labels too, so a parent class is only counted if its children have no pictures.
            seen = len(images.labels.classes.unique())
            facts[f"classes without {name} pictures"] = taxonomy.num_classes - seen
        places = np.bincount(taxonomy.slot_class)
        facts["classes in several verticals"] = int((places > 1).sum())
        return facts | {"files left out": dict(sorted(left_out.items()))}


class _Process(NamedTuple):
    """What does not survive a fork: connections and threads."""

    number: int
    storage: fsspec.AbstractFileSystem
    pool: ThreadPoolExecutor


class ImageFolderSet(ImageSet):
    """One split. Pictures are read and decoded by a pool of threads, started when first needed."""

    def __init__(
        self,
        options: ImageFolderOptions,
        transform: Transform,
        listing: Listing,
        class_ids: Sequence[int],
        taxonomy: Taxonomy,
        formats: Sequence[str],
    ):
        """class_ids: one an entry of `listing.files`. formats: Pillow's names of what may be decoded."""
        self.options, self.transform, self.listing, self.formats = options, transform, listing, formats
        by_class = Labels.from_lists(taxonomy.with_ancestors([c]) for c in range(taxonomy.num_classes))
        self.labels = by_class.take(torch.tensor(class_ids))
        self._process: _Process | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_process": None}

    def name(self, index: int) -> str:
        return f"{self.listing.name}/{self.listing.files[index]}"

    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        process = self._this_process()
        draws: Iterable[np.ndarray | None] = repeat(None)
        if keys is not None and self.options.augmentation != "none":
            draws = keyed_uniforms(keys, 1 + 4 * TRIES).double().numpy()
        size, channels = self.options.image_size, self.options.channels
        pixels = np.empty((len(indices), size, size, channels), np.uint8)
        each = process.pool.map(self._picture, repeat(process.storage), indices.tolist(), draws)
        for row, picture in enumerate(each):
            pixels[row] = picture
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _this_process(self) -> _Process:
        if self._process is None or self._process.number != os.getpid():
            storage, _ = fsspec.url_to_fs(self.listing.root)
            pool = ThreadPoolExecutor(self.options.threads, "image-folder")
            self._process = _Process(os.getpid(), storage, pool)
        return self._process

    def _picture(
        self, storage: fsspec.AbstractFileSystem, index: int, draws: np.ndarray | None
    ) -> np.ndarray:
        """uint8 [S, S, C]. draws: float [1 + 4 TRIES] in [0, 1); None for the middle of the picture."""
        file = f"{self.listing.folder}/{self.listing.files[index]}"
        try:
            data = patiently(lambda: storage.cat_file(file), PAUSES if "://" in self.listing.root else ())
        except FileNotFoundError:
            raise DataError(f"{self.name(index)}: no such file (any more), or a link to none") from None
        except HOPELESS as error:
            raise DataError(f"{self.name(index)}: cannot be read: {type(error).__name__}: {error}") from None
        except Exception as error:  # each storage raises its own
            raise StorageError(
                f"{self.name(index)}: cannot be read: {type(error).__name__}: {error}"
            ) from None
        try:
            image = decode(data, self.formats, self.transform.mode, 2 * self.options.image_size)
        except Exception as error:  # damaged pictures fail in many ways
            why = str(error) or type(error).__name__
            raise DataError(f"{self.name(index)}: cannot be decoded: {why}; replace or remove it") from None
        if draws is None:
            return self.transform.pixels(image)
        pixels = self.transform.pixels(image, random_box(image.size, draws[1:].reshape(TRIES, 4)))
        mirrored = self.options.augmentation == "crop-flip" and draws[0] < 0.5
        return pixels[:, ::-1] if mirrored else pixels
