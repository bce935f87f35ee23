"""In what order images come: a function of (seed, epoch), the same for any number of workers."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Sampler:
    """Shuffles `indices` (int64 [n]) anew every epoch and cuts them into batches.

    All batches of an epoch are equally large, give or take one image, and at most `batch_size`: a last
    batch of one image would break batch normalisation. No image is dropped or repeated.
    """

    def __init__(self, indices: Tensor, batch_size: int, seed: int):
        self.indices, self.batch_size, self.seed = indices, batch_size, seed
        self.batches_per_epoch = math.ceil(len(indices) / batch_size)
        self._epoch: tuple[int, Tensor] | None = None

    def order(self, epoch: int) -> Tensor:
        """int64 [n]: all indices in the epoch's order."""
        if self._epoch is None or self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            shuffled = self.indices[torch.randperm(len(self.indices), generator=generator)]
            self._epoch = (epoch, shuffled)
        return self._epoch[1]

    @property
    def smallest_batch(self) -> int:
        """Images in the smallest batch."""
        return len(self.indices) // self.batches_per_epoch

    def batch(self, step: int, rank: int = 0, size: int = 1) -> tuple[int, Tensor, int]:
        """Of a step, counted from 0: (epoch, a worker's indices int64, images of all workers together)."""
        epoch, number = divmod(step, self.batches_per_epoch)
        quotient, larger = divmod(len(self.indices), self.batches_per_epoch)
        start = number * quotient + min(number, larger)
        whole = self.order(epoch)[start : start + quotient + (number < larger)]
        return epoch, whole.tensor_split(size)[rank], len(whole)
