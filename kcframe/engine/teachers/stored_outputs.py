"""One teacher's outputs in a folder of any storage.

NAME-IDENTITY-W/
    manifest.json                       whose outputs, of what pictures; W logits an image
    seed-S/epoch-EEEE/NNNNN.arrow       some images each: image int64, classes int32 [W], logits float16 [W];
                                        no classes where all of a teacher's outputs are kept, in its own order

Logits instead of probabilities: they serve every temperature, and float16 keeps a probability near 1 four
times as exactly that way (within 1.1e-4).
"""

from __future__ import annotations

import math
import os
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kcframe.engine.teachers.identity import short
from kcframe.errors import DataError, RunDirError, StorageError
from kcframe.storage.remote import without_secrets
from kcframe.storage.run_dir import RunDir

MANIFEST = "manifest.json"
ROWS, NUMBERS = 2**15, 2**22  # images and logits a file, at most: 20 MB of the 100 best
READERS = 8  # files that are read at a time
LARGEST = 60_000.0  # a logit that float16 holds


@dataclass(frozen=True)
class OutputsFile:
    """What a teacher said of n pictures. images: int64 [n], ascending. classes: int32 [n, W], or None where
    all are kept, in the order of the label map. logits: float16 [n, W]; nan where a picture could not be
    read."""

    images: np.ndarray
    classes: np.ndarray | None
    logits: np.ndarray


def best(logits: Tensor, label_map: Tensor, width: int) -> tuple[Tensor | None, Tensor]:
    """(classes int32 [b, W], logits float16 [b, W]) on the CPU, of logits [b, C]: the `width` largest, the
    largest first; all in their own order, without classes, if width is C. label_map: int64 [C]."""
    classes = None
    if width < logits.shape[1]:
        logits, places = logits.topk(width, dim=1)
        classes = label_map[places].int().cpu()
    return classes, logits.clamp(-LARGEST, LARGEST).half().cpu()


@dataclass(frozen=True)
class StoredOutputs:
    """store: the folder that holds parts. about: see `identity`. images: int64 [n], ascending, those that ask
    this teacher. width: W. outputs: C."""

    store: RunDir
    about: dict[str, Any]
    images: Tensor
    width: int
    outputs: int

    @property
    def teacher(self) -> str:
        return self.about["teacher"]["name"]

    @cached_property
    def folder(self) -> str:
        return f"{prefix(self.about)}{self.width}"

    @property
    def whole(self) -> bool:
        """Whether all outputs are kept."""
        return self.width == self.outputs

    @property
    def rows(self) -> int:
        """Images a file; the last may have fewer."""
        return max(1, min(ROWS, NUMBERS // self.width))

    @property
    def num_files(self) -> int:
        """An epoch's."""
        return math.ceil(len(self.images) / self.rows)

    def images_of(self, number: int) -> Tensor:
        """The images of a file."""
        return self.images[number * self.rows : (number + 1) * self.rows]

    def missing(self, seed: int, epochs: int) -> list[tuple[int, int]]:
        """(epoch, number) of the files that are not there."""
        folder = f"{self.folder}/seed-{seed}"
        there = {f"{folder}/{name}" for name in self.store.files_below(folder)}
        wanted = ((epoch, number) for epoch in range(epochs) for number in range(self.num_files))
        return [each for each in wanted if self.name(seed, *each) not in there]

    def write(self, seed: int, epoch: int, number: int, content: OutputsFile) -> None:
        """A file is there whole or not at all, and after its manifest."""
        if not self.store.exists(f"{self.folder}/{MANIFEST}"):
            more = {"logits_an_image": self.width, "images": len(self.images), "images_a_file": self.rows}
            self.store.write_json(f"{self.folder}/{MANIFEST}", self.about | more)
        columns = {"image": pa.array(content.images, pa.int64())}
        for name, values in (("classes", content.classes), ("logits", content.logits)):
            if values is not None:
                columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), self.width)
        table = pa.table(columns).replace_schema_metadata(
            {**self._marks(seed, epoch, number), "crc32": _crc(content)}
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        self.store.write(self.name(seed, epoch, number), sink.getvalue().to_pybytes())

    def read(self, seed: int, epoch: int, number: int, whole: bool = False) -> OutputsFile:
        """A file of a folder of this machine is mapped, not copied. whole: compares its checksum, too.
        DataError if it is damaged, or not what its name says."""
        name = self.name(seed, epoch, number)
        url = self.store.shown(name)
        try:
            file = pa.ipc.open_file(self._mapped(name))
            marks = {k.decode(): v.decode() for k, v in (file.schema.metadata or {}).items()}
            table = file.get_batch(0)

            def column(name: str) -> np.ndarray:
                return table[name].flatten().to_numpy().reshape(-1, self.width)

            content = OutputsFile(
                table["image"].to_numpy(), None if self.whole else column("classes"), column("logits")
            )
        except StorageError:
            raise
        except (FileNotFoundError, RunDirError):
            raise DataError(f"{url}: no such file: `kcframe cache RECIPE` makes it") from None
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            raise DataError(f"{url}: damaged ({error}): delete it, and it is made anew") from None
        checksum = marks.pop("crc32", None)
        if marks != self._marks(seed, epoch, number) or not np.array_equal(
            content.images, self.images_of(number)
        ):
            raise DataError(f"{url}: holds other outputs than its name says: delete it, and it is made anew")
        if whole and checksum != _crc(content):
            raise DataError(f"{url}: damaged (its checksum is wrong): delete it, and it is made anew")
        return content

    def _mapped(self, name: str) -> pa.MemoryMappedFile:
        """A file in memory only as far as it is looked at; one of another storage is fetched to a disk first,
        and gone when nobody looks at it any longer."""
        if self.store.local:
            return pa.memory_map(self.store.path(name).removeprefix("file://"))
        with tempfile.NamedTemporaryFile(delete=False) as file:
            try:
                file.write(self.store.read(name))
                file.flush()
                return pa.memory_map(file.name)
            finally:
                os.unlink(file.name)

    def read_epoch(self, seed: int, epoch: int) -> list[OutputsFile]:
        """All files of an epoch, in order."""
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(lambda number: self.read(seed, epoch, number), range(self.num_files)))

    def _marks(self, seed: int, epoch: int, number: int) -> dict[str, str]:
        return {"of": short(self.about), "seed": str(seed), "epoch": str(epoch), "number": str(number)}

    def name(self, seed: int, epoch: int, number: int) -> str:
        """A file's, below the store."""
        return f"{self.folder}/seed-{seed}/epoch-{epoch:04}/{number:05}.arrow"


def prefix(about: dict[str, Any]) -> str:
    """What the names of an identity's folders begin with, whatever their W."""
    return f"{of_teacher(about['teacher']['name'])}{short(about)}-"


def of_teacher(name: str) -> str:
    """What the names of a teacher's folders begin with."""
    return f"{quote(without_secrets(name), safe=' +_.,()&')[:100]}-"


def _crc(content: OutputsFile) -> str:
    before = 0 if content.classes is None else zlib.crc32(content.classes.data)
    return str(zlib.crc32(content.logits.data, before))


class Epoch:
    """An epoch of stored outputs in memory, to be looked up in any order."""

    def __init__(self, stored: StoredOutputs, seed: int, epoch: int):
        self.stored, self.seed, self.epoch = stored, seed, epoch
        self.files = stored.read_epoch(seed, epoch)

    def of(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """images: int64 [b] -> (classes int32 [b, W] or None, logits float16 [b, W]), see `OutputsFile`."""
        stored = self.stored
        rows = torch.searchsorted(stored.images, images)
        there = rows < len(stored.images)
        there[there.clone()] = stored.images[rows[there]] == images[there]
        if not there.all():
            lacking = int(images[~there][0])
            raise DataError(
                f"{stored.store.shown(stored.folder)}: has no outputs of image {lacking}, which this teacher "
                "is asked about"
            )
        classes = None if stored.whole else np.empty((len(rows), stored.width), np.int32)
        logits = np.empty((len(rows), stored.width), np.float16)
        numbers = (rows // stored.rows).numpy()
        for number in np.unique(numbers):
            which = np.flatnonzero(numbers == number)
            places = rows[which].numpy() - number * stored.rows
            logits[which] = self.files[number].logits[places]
            if classes is not None:
                classes[which] = self.files[number].classes[places]
        if len(bad := np.flatnonzero(np.isnan(logits[:, 0]))):
            image, file = int(images[bad[0]]), stored.name(self.seed, self.epoch, numbers[bad[0]])
            raise DataError(
                f"{stored.store.shown(file)}: image {image} could not be read when this teacher was asked, "
                "and can be now: delete that file to ask anew"
            )
        return None if classes is None else torch.from_numpy(classes), torch.from_numpy(logits)
