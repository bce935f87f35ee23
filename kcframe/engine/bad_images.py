"""Images that cannot be read are skipped, counted and listed in the run directory; too many are an error."""

from __future__ import annotations

import json
from collections.abc import Callable

from torch import Tensor

from kcframe.errors import DataError
from kcframe.interfaces.data import ImageSet
from kcframe.run_dir import RunDir, bad_images_file

TRIES = 32  # images after a bad one that are tried in its place
SURELY = 256  # images after which more bad than good ones mean that something else is wrong


class BadImages:
    """What one worker of a stage has met so far, each image once."""

    def __init__(self, num_images: int, max_fraction: float):
        """num_images: of the whole split, that max_fraction is a share of, also for a stage that sees few."""
        self.num_images, self.max_fraction = num_images, max_fraction
        self.reasons: dict[int, str] = {}
        self.looked = 0
        self._met: set[int] = set()  # since this process looks: what was listed before says nothing of now
        self._listed = 0

    def add(self, bad: dict[int, str], looked: int) -> None:
        """bad: image -> reason, of `looked` images. DataError if there are too many by now."""
        self.reasons |= bad
        self._met |= set(bad)
        self.looked += looked
        hopeless = self.looked >= SURELY and 2 * len(self._met) > self.looked
        if len(self.reasons) > self.max_fraction * self.num_images or hopeless:
            first = next(iter(self.reasons.values()), "")
            raise DataError(
                f"{len(self.reasons):,} images, {len(self._met):,} of the last {self.looked:,}, cannot be "
                f"used; data.options.max_bad_fraction: {self.max_fraction:g} allows "
                f"{int(self.max_fraction * self.num_images):,} of the {self.num_images:,}; the first: {first}"
            )

    def read(self, run_dir: RunDir, folder: str, rank: int) -> None:
        """Go on with what this worker had listed before an interruption."""
        name = bad_images_file(folder, rank)
        if self.max_fraction and run_dir.exists(name):
            lines = [json.loads(line) for line in run_dir.read(name).splitlines()]
            self.reasons = {line["image"]: line["reason"] for line in lines}
            self._listed = len(self.reasons)

    def write(self, run_dir: RunDir, folder: str, rank: int) -> None:
        """List them, if there are new ones."""
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
    """Training pictures in which one that cannot be read is replaced by the next of the epoch that can: every
    step is equally large, and what stands for what does not depend on the number of workers.

    order: int64 [n], the epoch's. keys: what gives images their randomness. Returns pictures [B, C, H, W],
    the images that they are int64 [B], and image -> reason for those that cannot be read. Raises DataError if
    TRIES images in a row cannot be.
    """
    pictures, found = images.load_readable(indices, keys(indices))
    bad = {int(indices[row]): reason for row, reason in found.items()}
    if found:
        pictures, indices = pictures.clone(), indices.clone()
    for row in found:
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
            raise DataError(f"no image near this one can be used either: {found[row]}")
    return pictures, indices, bad
