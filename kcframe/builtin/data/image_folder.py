"""Data source `image-folder`: folders of pictures, one folder a class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kcframe.builtin.data.folders import (
    Listing,
    class_ids,
    list_pictures,
    refuse_new_classes,
    refuse_other_depths,
    taxonomy_of,
)
from kcframe.builtin.data.image_folder_options import ImageFolderOptions
from kcframe.builtin.data.pictures import TRIES, centre_box, decode, formats_of, random_box
from kcframe.builtin.data.taxonomy_file import read_taxonomy
from kcframe.errors import DataError
from kcframe.interfaces.data import DataSource, ImageSet, Labels
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

    @cached_property
    def _built(self) -> tuple[Taxonomy, dict[str, ImageFolderSet], Counter[str]]:
        options = self.options
        formats = formats_of(options.extensions)
        train = list_pictures(options.root, options.train, options.extensions)
        test = list_pictures(options.root, options.test, options.extensions)
        if options.taxonomy is None:
            refuse_other_depths(train, test)
            taxonomy = taxonomy_of(train)
            refuse_new_classes(train, test)
        else:
            taxonomy = read_taxonomy(options.taxonomy)
        sets = {
            name: ImageFolderSet(
                options, listing, class_ids(listing, taxonomy, options.taxonomy), taxonomy, formats
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
            facts[f"classes without {name} pictures"] = taxonomy.num_classes - len(
                images.labels.classes.unique()
            )
        return facts | {"files left out": dict(sorted(left_out.items()))}


class ImageFolderSet(ImageSet):
    """One split. Pictures are decoded by a pool of threads, started when first needed."""

    def __init__(
        self,
        options: ImageFolderOptions,
        listing: Listing,
        class_ids: Sequence[int],
        taxonomy: Taxonomy,
        formats: Sequence[str],
    ):
        """class_ids: one an entry of `listing.files`. formats: Pillow's names of what may be decoded."""
        self.options, self.listing, self.formats = options, listing, formats
        labels = {class_id: taxonomy.with_ancestors([class_id]) for class_id in set(class_ids)}
        self.labels = Labels.from_lists(labels[class_id] for class_id in class_ids)
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pool": None}

    def name(self, index: int) -> str:
        return f"{self.listing.name}/{self.listing.files[index]}"

    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        each_key = [None] * len(indices) if keys is None else keys.tolist()
        run = map if self.options.threads == 1 else self._executor().map
        size, channels = self.options.image_size, self.options.channels
        pixels = np.empty((len(indices), size, size, channels), np.uint8)
        for row, picture in enumerate(run(self._picture, indices.tolist(), each_key)):
            pixels[row] = picture
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _executor(self) -> ThreadPoolExecutor:
        # A forked process inherits the pool but none of its threads.
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self.options.threads, "image-folder")
        return self._pool[1]

    def _picture(self, index: int, key: int | None) -> np.ndarray:
        """uint8 [S, S, C]."""
        size = self.options.image_size
        try:
            data = self.listing.filesystem.cat_file(f"{self.listing.folder}/{self.listing.files[index]}")
        except FileNotFoundError:
            raise DataError(f"{self.name(index)}: no such file (any more)") from None
        except Exception as error:  # each storage raises its own
            raise DataError(f"{self.name(index)}: cannot be read: {type(error).__name__}: {error}") from None
        try:
            image = decode(data, self.formats, "L" if self.options.channels == 1 else "RGB", 2 * size)
        except Exception as error:  # damaged pictures fail in many ways
            raise DataError(
                f"{self.name(index)}: cannot be decoded: {error or type(error).__name__}"
            ) from None
        box, mirrored = centre_box(image.size), False
        if key is not None and self.options.augmentation != "none":
            draws = np.random.Generator(np.random.Philox(key=key % 2**64)).random(4 * TRIES + 1)
            box = random_box(image.size, draws[1:].reshape(TRIES, 4))
            mirrored = self.options.augmentation == "crop-flip" and draws[0] < 0.5
        image = image.resize((size, size), Image.Resampling.BILINEAR, box)
        pixels = np.asarray(image).reshape(size, size, -1)
        return pixels[:, ::-1] if mirrored else pixels
