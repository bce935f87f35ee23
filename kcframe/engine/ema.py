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

    Parameters (gamma among them) and floating-point buffers are averaged, short formats in float32; other
    buffers, such as counts, are the newest. The average of the parameters is the same on all workers, because
    the parameters are; that of batch statistics is each worker's own, and the first worker's is measured and
    saved, as without an average.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module, self.decay = module, decay
        self.average = {name: _wide(tensor.detach()).clone() for name, tensor in self._tensors()}

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.module.named_parameters()
        yield from self.module.named_buffers()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self._tensors():
            average = self.average[name]
            if not tensor.is_floating_point():
                average.copy_(tensor)
            elif isinstance(tensor, nn.Parameter):
                average.lerp_(_wide(tensor), 1 - decay)
            else:
                # A buffer may hold infinities (a mask, say), of which lerp would make nan.
                new = torch.lerp(average, _wide(tensor), 1 - decay)
                average.copy_(torch.where(average == tensor, average, new))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the average's values inside the block, and its own again after it."""
        before = [(tensor, tensor.data) for _, tensor in self._tensors()]
        try:
            for name, tensor in self._tensors():
                tensor.data = self.average[name].to(tensor.dtype)
            yield
        finally:
            for tensor, values in before:
                tensor.data = values

    def state(self) -> dict[str, Any]:
        return self.average

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.average.items():
            tensor.copy_(state[name])


def _wide(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32: small steps would be rounded away."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
