"""Image sets of stored pictures; threads fetch, decode and augment them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kcframe.errors import DataError, KcframeError, StorageError
from kcframe.interfaces.data import ImageSet, Labels, ReadCost
from kcframe.interfaces.toolkit.augmentation import TRIES, random_box
from kcframe.interfaces.toolkit.pictures import decode
from kcframe.interfaces.toolkit.randomness import keyed_uniforms
from kcframe.interfaces.toolkit.transform import Transform, as_images
from kcframe.pictures.stores.disk_cache import GIB, MARK, DiskCache
from kcframe.pictures.stores.options import Augmentation, PictureOptions
from kcframe.pictures.stores.store import Store
from kcframe.storage.remote import HOPELESS, explained
from kcframe.taxonomy import Taxonomy

CREDENTIALS = ("ExpiredToken", "InvalidAccessKeyId", "RequestTimeTooSkewed", "SignatureDoesNotMatch")

WEIGHED = 64  # pictures whose size is asked for, to estimate the mean size


def picture_cache(options: PictureOptions) -> DiskCache | None:
    """The cache for pictures, or None if the options turn it off."""
    if options.cache is None or not options.cache_gib:
        return None
    cache = DiskCache(_of_pictures(options.cache), int(options.cache_gib * GIB))
    if os.path.lexists(cache.folder):
        with suppress(OSError):
            cache.claim()  # a folder that is not the cache's is refused before anything is trained
    return cache


def is_picture_cache(cache: str) -> bool:
    """Whether the folder of an option `cache` has a cache of pictures of this user's already."""
    folder = Path(_of_pictures(cache)).expanduser()
    try:
        return (folder / MARK).is_file() and os.lstat(folder).st_uid == os.geteuid()
    except OSError:
        return False


def _of_pictures(cache: str) -> str:
    return f"{cache}/pictures"


def picture_counts(taxonomy: Taxonomy, sets: Mapping[str, ImageSet]) -> dict[str, object]:
    """Facts for `DataSource.describe`: pictures of each split, and classes without pictures there."""
    facts: dict[str, object] = {f"{name} pictures": len(images) for name, images in sets.items()}
    for name, images in sets.items():
        # Ancestors are labels too, so a parent class is only counted if its children have no pictures.
        seen = len(images.labels.classes.unique())
        facts[f"classes without {name} pictures"] = taxonomy.num_classes - seen
    return facts


class StoredPictures(ImageSet):
    """The pictures of one split in any store. The threads start at the first read."""

    def __init__(
        self,
        store: Store,
        labels: Labels,
        transform: Transform,
        formats: Sequence[str],
        augmentation: Augmentation = "none",
        *,
        threads: int = 4,
    ):
        """formats: Pillow's names of the formats that may be decoded. threads: number of reading threads."""
        self.store, self.labels, self.transform = store, labels, transform
        self.augmentation, self.threads, self.formats = augmentation, threads, formats
        self._threads: tuple[int, ThreadPoolExecutor] | None = None

    def name(self, index: int) -> str:
        return self.store.name(index)

    def turn(self, index: int) -> Image.Transpose | Literal["exif"] | None:
        """The transposition that makes an image upright; 'exif': as the file's EXIF data say; None: none."""
        return "exif"

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_threads": None}

    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        images, bad = self.load_readable(indices, keys)
        for reason in bad.values():
            raise DataError(f"{reason}; replace or remove it")
        return images

    def load_readable(self, indices: Tensor, keys: Tensor | None) -> tuple[Tensor, dict[int, str]]:
        draws: Iterable[np.ndarray | None] = repeat(None)
        if keys is not None and self.augmentation != "none":
            draws = keyed_uniforms(keys, 1 + 4 * TRIES).double().numpy()
        size = self.transform.image_size
        pixels = np.zeros((len(indices), size, size, self.transform.channels), np.uint8)
        bad: dict[int, str] = {}
        for row, picture in enumerate(self._pool().map(self._picture, indices.tolist(), draws)):
            if isinstance(picture, str):
                bad[row] = picture
            else:
                pixels[row] = picture
        return as_images(pixels), bad

    def read_cost(self) -> ReadCost | None:
        if not len(self):
            return None

        def size(index: int) -> int | None:
            try:
                return self.store.size(index)
            except HOPELESS:
                return None  # a missing file is reported when it is read
            except Exception as error:  # each storage raises its own
                raise self._failed(index, error) from None

        some = torch.linspace(0, len(self) - 1, min(len(self), WEIGHED)).round().long().tolist()
        sizes = [length for length in self._pool().map(size, some) if length is not None]
        mean = sum(sizes) / max(len(sizes), 1)
        return ReadCost(self.store.requests, mean, self.store.room)

    def _pool(self) -> ThreadPoolExecutor:
        """The threads of this process: threads do not survive a fork."""
        if self._threads is None or self._threads[0] != os.getpid():
            self._threads = (os.getpid(), ThreadPoolExecutor(self.threads, "pictures"))
        return self._threads[1]

    def _failed(self, index: int, error: Exception) -> StorageError:
        return StorageError(f"{self.name(index)}: cannot be read: {explained(error)}")

    def _picture(self, index: int, draws: np.ndarray | None) -> np.ndarray | str:
        """The pixels, uint8 [S, S, C], or the reason why the picture cannot be used.

        draws: random numbers in [0, 1), float [1 + 4 TRIES]; None: the middle of the picture, not augmented.
        Raises StorageError if the storage fails: then the picture itself may be good.
        """
        try:
            data = self.store.read(index)
        except FileNotFoundError:
            return f"{self.name(index)}: no such file (any more), or a link to none"
        except HOPELESS as error:
            if (code := _credentials(error)) is not None:
                raise StorageError(f"{self.name(index)}: the credentials are refused: {code}") from None
            return f"{self.name(index)}: cannot be read: {explained(error)}"
        except KcframeError:
            raise
        except Exception as error:  # each storage raises its own
            raise self._failed(index, error) from None
        try:
            side, turn = 2 * self.transform.image_size, self.turn(index)
            image = decode(data, self.formats, self.transform.mode, side, turn=turn)
        except Exception as error:  # damaged pictures fail in many ways
            return f"{self.name(index)}: cannot be decoded: {str(error) or type(error).__name__}"
        if draws is None:
            return self.transform.pixels(image)
        pixels = self.transform.pixels(image, random_box(image.size, draws[1:].reshape(TRIES, 4)))
        mirrored = self.augmentation == "crop-flip" and draws[0] < 0.5
        return pixels[:, ::-1] if mirrored else pixels


def _credentials(error: Exception) -> str | None:
    """S3's error code if it refuses the credentials, else None."""
    told = getattr(error.__cause__, "response", None)
    code = told.get("Error", {}).get("Code") if isinstance(told, dict) else None
    return code if code in CREDENTIALS else None
