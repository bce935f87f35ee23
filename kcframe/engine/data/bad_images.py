"""Images that cannot be read: they are skipped, counted and listed; too many are an error."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from kcframe.engine.world import World
from kcframe.errors import DataError
from kcframe.interfaces.data import ImageSet
from kcframe.storage.layout import bad_images_file
from kcframe.storage.run_dir import RunDir

TRIES = 32  # number of following images that are tried in place of a bad one
SURELY = 256  # after this many images, if most are bad, something else must be wrong


class BadImages:
    """The bad images that one worker of a stage has met so far, each image once.

    total: number of bad images of all workers together, from the last call of `count`.
    """

    def __init__(self, num_images: int, max_fraction: float):
        """num_images: of the whole split, also if the stage uses a part. max_fraction: a share of them."""
        self.num_images, self.max_fraction = num_images, max_fraction
        self.reasons: dict[int, str] = {}
        self.total = 0
        self.looked = 0
        self._met: set[int] = set()  # by this process; does not include images listed before an interruption
        self._listed = 0

    def add(self, bad: dict[int, str], looked: int) -> None:
        """Adds the bad ones of `looked` images. bad: image -> reason. Raises DataError for too many."""
        self.reasons |= bad
        self._met |= set(bad)
        self.looked += looked
        self.total = max(self.total, len(self.reasons))
        hopeless = self.looked >= SURELY and 2 * len(self._met) > self.looked
        if hopeless or len(self.reasons) > self.max_fraction * self.num_images:
            self._refuse(f"{len(self.reasons):,} images, {len(self._met):,} of the last {self.looked:,},")

    def count(self, world: World) -> None:
        """Counts the bad images of all workers, each once. Raises DataError, on all of them, for too many."""
        if world.size == 1 or not self.max_fraction or not world.any(bool(self.reasons)):
            return
        met = torch.zeros(self.num_images, device=world.device)
        met[list(self.reasons)] = 1
        world.sum([met])
        self.total = int((met > 0).sum())
        if self.total > self.max_fraction * self.num_images:
            self._refuse(f"{self.total:,} images, of all {world.size} workers,")

    def _refuse(self, how_many: str) -> None:
        first = next(iter(self.reasons.values()), "see the others' lists")
        raise DataError(
            f"{how_many} cannot be used; data.options.max_bad_fraction: {self.max_fraction:g} allows "
            f"{int(self.max_fraction * self.num_images):,} of the {self.num_images:,}; the first: {first}"
        )

    def read(self, run_dir: RunDir, folder: str, rank: int, size: int = 1) -> None:
        """Reads the lists from before an interruption: this worker's, and those of workers that are gone.

        rank: of this one of `size` workers. It takes over the lists of rank + size, rank + 2 * size and so
        on.
        """
        while self.max_fraction and run_dir.exists(name := bad_images_file(folder, rank)):
            lines = [json.loads(line) for line in run_dir.read(name).splitlines()]
            self.reasons |= {line["image"]: line["reason"] for line in lines}
            self._listed = len(self.reasons)
            rank += size

    def write(self, run_dir: RunDir, folder: str, rank: int) -> None:
        """Writes the list if it has new images."""
        if len(self.reasons) > self._listed:
            lines = [
                json.dumps({"image": image, "reason": reason}, ensure_ascii=False)
                for image, reason in self.reasons.items()
            ]
            run_dir.write(bad_images_file(folder, rank), "\n".join(lines) + "\n")
            self._listed = len(self.reasons)


def load_in_full(
    images: ImageSet, indices: Tensor, order: Tensor, keys: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, dict[int, str]]:
    """Loads training pictures; replaces an unreadable picture by the next readable one of the epoch.

    So every step has the same size, and the replacement does not depend on the number of workers.

    order: int64 [n], the order of the epoch. keys: images -> keys of their randomness. Returns pictures [B,
    C, H, W], the indices of these images int64 [B], and image -> reason for those that cannot be read. Raises
    DataError if TRIES images in a row cannot be read.
    """
    pictures, unreadable = images.load_readable(indices, keys(indices))
    bad = {int(indices[row]): reason for row, reason in unreadable.items()}
    if unreadable:
        pictures, indices = pictures.clone(), indices.clone()
    for row in unreadable:
        place = int((order == indices[row]).nonzero()[0])
        for step in range(1, min(TRIES, len(order))):
            other = order[(place + step) % len(order)].view(1)
            if int(other) in bad:
                continue
            picture, why = images.load_readable(other, keys(other))
            if not why:
                pictures[row], indices[row] = picture[0], other[0]
                break
            bad[int(other)] = why[0]
        else:
            raise DataError(f"no image near this one can be used either: {unreadable[row]}")
    return pictures, indices, bad
