"""An exponential moving average of a student's weights, batch statistics included.

Polyak averaging as EMA of weights (Tarvainen & Valpola 2017, "Mean teachers are better role models"; the
warm-up is TensorFlow's ExponentialMovingAverage with num_updates). Not part of Gao et al. 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class AveragedWeights:
    """After step t (from 0): average = d * average + (1 - d) * weight, d = min(decay, (1 + t) / (10 + t)).

    Parameters (gamma among them) and floating-point buffers are averaged; other buffers, such as counts, are
    the newest. The average is the same on all workers, because the weights are.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module, self.decay = module, decay
        self.average = {name: tensor.detach().clone() for name, tensor in self._tensors()}

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.module.named_parameters()
        yield from self.module.named_buffers()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self._tensors():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the average's values inside the block, and its own again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, tensor in self._tensors():
            tensor.data, self.average[name] = self.average[name], tensor.data

    def state(self) -> dict[str, Any]:
        return self.average

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.average.items():
            tensor.copy_(state[name])
