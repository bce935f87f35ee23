"""Pictures and labels of each step, loaded in this process or ahead of time in others.

torch's DataLoader carries the processes, over step numbers: a step's images are a function of (seed, step,
rank), so nothing about order is left to it, and resumption is only another range of steps. (Ray Data hands
blocks to workers as they come, so which worker sees what depends on timing.)
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kcframe.engine.data.bad_images import load_in_full
from kcframe.engine.data.sampler import Sampler
from kcframe.engine.data.split import Split
from kcframe.errors import KcframeError
from kcframe.interfaces.data import Labels
from kcframe.interfaces.toolkit.randomness import image_keys

AHEAD = 2  # batches that each process has ready


@dataclass(frozen=True)
class Batch:
    """One worker's images of one step.

    images: float [B, C, H, W] in 0..1. labels: of them. whole: images of all workers together. bad: image ->
    reason, of those that other images replace here because they cannot be read. absent: `ImageSet.absent` of
    the images. epoch, indices: which pictures they are, int64 [B].
    """

    images: Tensor
    labels: Labels
    whole: int
    bad: dict[int, str] = field(default_factory=dict)
    absent: Labels | None = None
    epoch: int = 0
    indices: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def passes(self, most: int | None) -> Iterator[Batch]:
        """The batch in equal parts of at most `most` images each (give or take one image); None: whole."""
        if most is None or len(self) <= most:
            yield self
            return
        for rows in torch.arange(len(self)).tensor_split(math.ceil(len(self) / most)):
            yield replace(
                self,
                images=self.images[rows[0] : rows[-1] + 1],
                labels=self.labels.take(rows),
                absent=None if self.absent is None else self.absent.take(rows),
                indices=None if self.indices is None else self.indices[rows],
            )


@dataclass(frozen=True)
class BatchPlan:
    """What each step of a worker sees, by the step's number. Images that cannot be read are replaced where
    the split allows any; else they are an error."""

    split: Split
    sampler: Sampler
    seed: int
    rank: int = 0
    size: int = 1

    def __getitem__(self, step: int) -> Batch:
        epoch, indices, whole = self.sampler.batch(step, self.rank, self.size)
        images = self.split.images
        bad: dict[int, str] = {}
        if self.split.max_bad_fraction:
            order = self.sampler.order(epoch)
            pictures, indices, bad = load_in_full(
                images, indices, order, lambda some: image_keys(self.seed, epoch, some)
            )
        else:
            pictures = images.load(indices, image_keys(self.seed, epoch, indices))
        absent = None if self.split.absent is None else self.split.absent.take(indices)
        return Batch(pictures, self.split.labels.take(indices), whole, bad, absent, epoch, indices)


class Loadable(Protocol):
    """Batches by their numbers."""

    def __getitem__(self, step: int) -> Batch: ...


def load_batches(plan: Loadable, steps: range, processes: int) -> Iterator[Batch]:
    """The batches of `steps` in order. processes: that load them ahead; 0: load when asked."""
    if not processes or not steps:
        yield from map(plan.__getitem__, steps)
        return
    loader = DataLoader(
        _Readable(plan),
        batch_size=None,
        sampler=steps,
        num_workers=processes,
        prefetch_factor=AHEAD,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_prepare_process,
    )
    for batch in loader:
        if isinstance(batch, KcframeError):
            raise batch
        yield batch


class _Readable(Dataset):
    """Hands the user's errors over as they are: DataLoader would wrap them in a traceback."""

    def __init__(self, plan: Loadable):
        self.plan = plan

    def __getitem__(self, step: int) -> Batch | KcframeError:
        try:
            return self.plan[step]
        except KcframeError as error:
            return error


def _prepare_process(number: int) -> None:
    torch.set_num_threads(1)  # the training has the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which ends these
