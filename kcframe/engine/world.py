"""Which worker this is. The engine knows this and nothing of what started it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

BUFFER = 2**24  # numbers that are summed over the workers in one message


def _alone(tensor: Tensor) -> None:
    """The sum over one worker."""


@dataclass(frozen=True)
class World:
    """rank of size workers, each on its device. all_reduce sums a tensor over all workers, in place."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    all_reduce: Callable[[Tensor], None] = _alone

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any worker: all of them get the same answer."""
        if self.size == 1:
            return flag
        count = torch.tensor([float(flag)], device=self.device)
        self.all_reduce(count)
        return bool(count)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Sum each tensor over all workers, in place; small ones share a message."""
        if self.size == 1:
            return
        waiting: list[Tensor] = []
        for tensor in tensors:
            if tensor.numel() >= BUFFER and tensor.is_contiguous():
                self.all_reduce(tensor)
                continue
            if waiting and (
                tensor.dtype != waiting[0].dtype or sum(t.numel() for t in waiting) + tensor.numel() > BUFFER
            ):
                self._sum_as_one(waiting)
                waiting = []
            waiting.append(tensor)
        if waiting:
            self._sum_as_one(waiting)

    def _sum_as_one(self, tensors: list[Tensor]) -> None:
        buffer = torch.cat([tensor.flatten() for tensor in tensors])
        self.all_reduce(buffer)
        for tensor, part in zip(tensors, buffer.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))
