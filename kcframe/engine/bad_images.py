"""Images that cannot be read are skipped, counted and listed in the run directory; too many are an error."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from kcframe.errors import DataError
from kcframe.interfaces.data import ImageSet
from kcframe.run_dir import RunDir, bad_images_file

SURELY = 256  # images after which more bad than good ones mean that something else is wrong


class BadImages:
    """What one worker of a stage has met so far, each image once."""

    def __init__(self, num_images: int, max_fraction: float):
        """num_images: of the whole split, that max_fraction is a share of, also for a stage that sees few."""
        self.num_images, self.max_fraction = num_images, max_fraction
        self.reasons: dict[int, str] = {}
        self.looked = 0
        self._listed = 0

    def add(self, bad: dict[int, str], looked: int) -> None:
        """bad: image -> reason, of `looked` images. DataError if there are too many by now."""
        self.reasons |= bad
        self.looked += looked
        hopeless = self.looked >= SURELY and 2 * len(self.reasons) > self.looked
        if len(self.reasons) > self.max_fraction * self.num_images or hopeless:
            first = next(iter(self.reasons.values()), "")
            raise DataError(
                f"{len(self.reasons):,} of {min(self.looked, self.num_images):,} images looked at cannot be "
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


def load_in_full(images: ImageSet, indices: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, dict[int, str]]:
    """A training batch in which images that cannot be read are replaced by others of the batch, in turn, so
    that every step is equally large.

    Returns pictures [B, C, H, W], the images that they are int64 [B], and image -> reason for those replaced.
    Raises DataError if none of the batch can be read.
    """
    pictures, bad = images.load_readable(indices, keys)
    if not bad:
        return pictures, indices, {}
    good = [row for row in range(len(indices)) if row not in bad]
    if not good:
        raise DataError(
            f"none of the {len(indices)} images of a batch can be used; the first: {next(iter(bad.values()))}"
        )
    stands_for = torch.arange(len(indices))
    for turn, row in enumerate(sorted(bad)):
        stands_for[row] = good[turn % len(good)]
    reasons = {int(indices[row]): reason for row, reason in bad.items()}
    return pictures[stands_for], indices[stands_for], reasons
