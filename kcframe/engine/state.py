"""What the next step depends on, as named parts of a checkpoint. Another part is another line of a dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from kcframe.engine.optimizer import restore_optimizer


class Part(Protocol):
    """Something that training changes from step to step."""

    def state(self) -> Any:
        """A tree of dicts, lists, tensors, numbers, strings and None (see `checkpoint.pack`)."""

    def restore(self, state: Any) -> None:
        """Become what `state` gave; never called with None."""


class Module:
    """A module's parameters and buffers."""

    def __init__(self, module: nn.Module):
        self.module = module

    def state(self) -> dict[str, Any]:
        return self.module.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state)


class Optimizer:
    """Moments and counts of an optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer

    def state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        restore_optimizer(self.optimizer, state)


class RandomNumbers:
    """torch's default generator: the CPU's, or a GPU's (None where there is no GPU)."""

    def __init__(self, device: torch.device):
        self.device = device

    def state(self) -> torch.Tensor | None:
        if self.device.type == "cpu":
            return torch.get_rng_state()
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def restore(self, state: torch.Tensor) -> None:
        if self.device.type == "cpu":
            torch.set_rng_state(state)
        elif self.device.type == "cuda":
            torch.cuda.set_rng_state(state, self.device)


def save(parts: Mapping[str, Part | None]) -> dict[str, Any]:
    """Each part's state by name; None for a part that this training does not have."""
    return {name: None if part is None else part.state() for name, part in parts.items()}


def restore(parts: Mapping[str, Part | None], saved: Mapping[str, Any]) -> list[str]:
    """Give each part its saved state. Returns the names of parts that an older checkpoint does not have;
    they stay as they are."""
    for name, part in parts.items():
        if part is not None and saved.get(name) is not None:
            part.restore(saved[name])
    return [name for name, part in parts.items() if part is not None and name not in saved]
