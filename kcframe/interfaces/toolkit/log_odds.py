"""Converts outputs of networks to the logits of a `Teacher`, whose sigmoid is the class's probability.

For a probability p this logit is the log-odds log p - log(1 - p), for a p from a sigmoid and from a softmax.
The logits of a softmax itself are different: they may all be shifted by any number. B images, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kcframe.errors import DataError

TOLERANCE = 1e-3
"""Tolerance for probabilities in short number formats, which may be outside of 0..1 by rounding."""


def from_softmax(logits: Tensor) -> Tensor:
    """Log-odds of the softmax over all C >= 2 outputs; float [B, C] to float32 [B, C]."""
    logits = logits.float()
    log_p = logits.log_softmax(1)
    odds = log_p - torch.log1p(-log_p.exp())
    # If p is near 1, 1 - p loses all digits, but the sum over the other outputs does not. Relative to the
    # largest logit these are small numbers, even if all logits are large.
    best, column = logits.max(1, keepdim=True)
    others = (logits - best).scatter(1, column, -torch.inf).logsumexp(1, keepdim=True)
    return odds.scatter(1, column, -others)


def from_probabilities(p: Tensor) -> Tensor:
    """Log-odds of probabilities; float [B, C] to float32 [B, C], between -87.4 and 16.7.

    Probabilities of a softmax give the same result as its logits, except for rounding of those close to 1.
    """
    limits = torch.finfo(torch.float32)
    p = p.float().clamp(limits.tiny, 1 - limits.eps / 2)
    return p.log() - torch.log1p(-p)


class ToLogits(nn.Module):
    """The last step of a network whose C outputs may be of any kind; float [B, C] to float [B, C].

        network = nn.Sequential(network, ToLogits("softmax-logits", 1000, "birds.onnx"))

    outputs: the kind of the outputs. "logits": their sigmoid is the class's probability; they are not
    changed. "softmax-logits": their softmax is the probability. "probabilities": from a sigmoid or a softmax.
    url: the network's file. Raises DataError, with its name, if the outputs cannot be of this kind.
    """

    def __init__(self, outputs: str, num_outputs: int, url: str):
        super().__init__()
        self.outputs, self.url = outputs, url
        if outputs == "softmax-logits" and num_outputs == 1:
            raise DataError(f"{url}: a softmax over one output always says 1: set outputs to logits")

    def extra_repr(self) -> str:
        return self.outputs

    def forward(self, values: Tensor) -> Tensor:
        if self.outputs == "softmax-logits":
            return from_softmax(values)
        if self.outputs == "probabilities":
            self._refuse_others(values)
            return from_probabilities(values)
        return values

    def _refuse_others(self, p: Tensor) -> None:
        low, high = p.aminmax()
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise DataError(
                f"{self.url}: its outputs go from {low:.3g} to {high:.3g}, so they are no probabilities: set "
                "outputs to logits or softmax-logits"
            )
