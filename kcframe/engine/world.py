"""Which worker this is. The engine knows this and nothing of what started it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


def _alone(tensor: Tensor) -> None:
    """The sum over one worker."""


@dataclass(frozen=True)
class World:
    """rank of size workers, each on its device. all_reduce sums a tensor over all workers, in place."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    all_reduce: Callable[[Tensor], None] = _alone
