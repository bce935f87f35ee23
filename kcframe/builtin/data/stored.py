"""Pictures that lie in files, on this machine or behind any fsspec URL: read and decoded by threads."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Literal, NamedTuple

import fsspec
import numpy as np
from PIL import Image
from torch import Tensor

from kcframe.builtin.data.crops import TRIES, random_box
from kcframe.errors import DataError, StorageError
from kcframe.interfaces.data import ImageSet
from kcframe.interfaces.pictures import decode
from kcframe.interfaces.randomness import keyed_uniforms
from kcframe.interfaces.transform import Transform, as_images
from kcframe.storage import HOPELESS, PAUSES, patiently

CREDENTIALS = ("ExpiredToken", "InvalidAccessKeyId", "RequestTimeTooSkewed", "SignatureDoesNotMatch")

Augmentation = Literal["crop-flip", "crop", "none"]


class _Process(NamedTuple):
    """What does not survive a fork: connections and threads."""

    number: int
    storage: fsspec.AbstractFileSystem
    pool: ThreadPoolExecutor


class StoredPictures(ImageSet):
    """The files of one split. A subclass says where each lies; threads start when first needed."""

    def __init__(
        self,
        root: str,
        transform: Transform,
        augmentation: Augmentation,
        threads: int,
        formats: Sequence[str],
        storage_options: dict[str, object] | None = None,
    ):
        """root: a URL; its storage has the files. formats: Pillow's names of what may be decoded."""
        self.root, self.transform, self.augmentation = root, transform, augmentation
        self.threads, self.formats = threads, formats
        self.storage_options = storage_options or {}
        self._process: _Process | None = None

    @abstractmethod
    def path(self, index: int) -> str:
        """An image's path in the storage."""

    def turn(self, index: int) -> Image.Transpose | Literal["exif"] | None:
        """What makes an image upright; 'exif': what its file says of itself."""
        return "exif"

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_process": None}

    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        images, bad = self.load_readable(indices, keys)
        for reason in bad.values():
            raise DataError(f"{reason}; replace or remove it")
        return images

    def load_readable(self, indices: Tensor, keys: Tensor | None) -> tuple[Tensor, dict[int, str]]:
        process = self._this_process()
        draws: Iterable[np.ndarray | None] = repeat(None)
        if keys is not None and self.augmentation != "none":
            draws = keyed_uniforms(keys, 1 + 4 * TRIES).double().numpy()
        size = self.transform.image_size
        pixels = np.zeros((len(indices), size, size, self.transform.channels), np.uint8)
        bad: dict[int, str] = {}
        found = process.pool.map(self._picture, repeat(process.storage), indices.tolist(), draws)
        for row, picture in enumerate(found):
            if isinstance(picture, str):
                bad[row] = picture
            else:
                pixels[row] = picture
        return as_images(pixels), bad

    def _this_process(self) -> _Process:
        if self._process is None or self._process.number != os.getpid():
            storage, _ = fsspec.url_to_fs(self.root, **self.storage_options)
            pool = ThreadPoolExecutor(self.threads, "pictures")
            self._process = _Process(os.getpid(), storage, pool)
        return self._process

    def _picture(
        self, storage: fsspec.AbstractFileSystem, index: int, draws: np.ndarray | None
    ) -> np.ndarray | str:
        """uint8 [S, S, C]; or why there is none. draws: float [1 + 4 TRIES] in [0, 1); None for the middle of
        the picture. StorageError if the storage fails, which says nothing of the picture."""
        path = self.path(index)
        try:
            data = patiently(lambda: storage.cat_file(path), PAUSES if "://" in self.root else ())
        except FileNotFoundError:
            return f"{self.name(index)}: no such file (any more), or a link to none"
        except HOPELESS as error:
            if (code := _credentials(error)) is not None:
                raise StorageError(f"{self.name(index)}: the credentials are refused: {code}") from None
            return f"{self.name(index)}: cannot be read: {type(error).__name__}: {error}"
        except Exception as error:  # each storage raises its own
            raise StorageError(
                f"{self.name(index)}: cannot be read: {type(error).__name__}: {error}"
            ) from None
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
    """S3's code, if this is about who asks and not about what was asked for."""
    told = getattr(error.__cause__, "response", None)
    code = told.get("Error", {}).get("Code") if isinstance(told, dict) else None
    return code if code in CREDENTIALS else None
