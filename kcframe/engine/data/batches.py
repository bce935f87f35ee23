"""Pictures and labels of each step, loaded in this process or ahead of time in others.

torch's DataLoader carries the processes, over step numbers: a step's images are a function of (seed, step,
rank), so nothing about order is left to it, and resumption is only another range of steps. (Ray Data hands
blocks to workers as they come, so which worker sees what depends on timing.)
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kcframe.engine.data.bad_images import load_in_full
from kcframe.engine.data.sampler import Sampler
from kcframe.errors import KcframeError
from kcframe.interfaces.data import ImageSet, Labels
from kcframe.interfaces.toolkit.randomness import image_keys

AHEAD = 2  # batches that each process has ready


@dataclass(frozen=True)
class Batch:
    """images: float [B, C, H, W] in 0..1. labels: of them. whole: images of all workers together. bad: image
    -> reason, of those that others stand for here because they cannot be read. absent: `ImageSet.absent` of
    the images. epoch, indices: which pictures they are, int64 [B]."""

    images: Tensor
    labels: Labels
    whole: int
    bad: dict[int, str] = field(default_factory=dict)
    absent: Labels | None = None
    epoch: int = 0
    indices: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """What each step of a worker sees, by the step's number. skips: whether images that cannot be read are
    replaced instead of being an error."""

    images: ImageSet
    labels: Labels
    sampler: Sampler
    seed: int
    rank: int = 0
    size: int = 1
    skips: bool = False
    absent: Labels | None = None

    def __getitem__(self, step: int) -> Batch:
        epoch, indices, whole = self.sampler.batch(step, self.rank, self.size)
        bad: dict[int, str] = {}
        if self.skips:
            order = self.sampler.order(epoch)
            images, indices, bad = load_in_full(
                self.images, indices, order, lambda some: image_keys(self.seed, epoch, some)
            )
        else:
            images = self.images.load(indices, image_keys(self.seed, epoch, indices))
        absent = None if self.absent is None else self.absent.take(indices)
        return Batch(images, self.labels.take(indices), whole, bad, absent, epoch, indices)


def load_batches(plan: Plan, steps: range, processes: int) -> Iterator[Batch]:
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

    def __init__(self, plan: Plan):
        self.plan = plan

    def __getitem__(self, step: int) -> Batch | KcframeError:
        try:
            return self.plan[step]
        except KcframeError as error:
            return error


def _prepare_process(number: int) -> None:
    torch.set_num_threads(1)  # the training has the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which ends these
