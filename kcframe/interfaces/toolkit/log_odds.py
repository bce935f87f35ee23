"""What networks put out, as logits whose sigmoid is the class's probability: what a `Teacher` gives.

The log-odds log p - log(1 - p) of a probability p is such a logit, whether p came from a sigmoid or from a
softmax. A softmax's own logits are not: they may all be shifted by any number. B images, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kcframe.errors import DataError

TOLERANCE = 1e-3
"""By which probabilities in short formats may leave 0..1, and their sum 1."""


def from_softmax(logits: Tensor) -> Tensor:
    """Log-odds of the softmax over all C >= 2 outputs; float [B, C] to float32 [B, C]."""
    logits = logits.float()
    log_p = logits.log_softmax(1)
    odds = log_p - torch.log1p(-log_p.exp())
    # Where p is near 1, 1 - p is rounded away; the sum over the other outputs is not. Relative to the best
    # they are small numbers, however large all of them are.
    best, column = logits.max(1, keepdim=True)
    others = (logits - best).scatter(1, column, -torch.inf).logsumexp(1, keepdim=True)
    return odds.scatter(1, column, -others)


def from_probabilities(p: Tensor) -> Tensor:
    """Log-odds of probabilities; float [B, C] to float32 [B, C], between -87.4 and 16.7.

    A softmax's probabilities give the same as its logits, but for the rounding of those close to 1.
    """
    limits = torch.finfo(torch.float32)
    p = p.float().clamp(limits.tiny, 1 - limits.eps / 2)
    return p.log() - torch.log1p(-p)


class ToLogits(nn.Module):
    """The last step of a network whose C outputs may be of any kind; float [B, C] to float [B, C].

        network = nn.Sequential(network, ToLogits("softmax-logits", 1000, "birds.onnx"))

    outputs: "logits", whose sigmoid is a class's probability, stay as they are; of "softmax-logits" the
    softmax is; "probabilities" are of either. url: the network's file. Raises DataError, naming it, if
    outputs cannot be what they are said to be.
    """

    def __init__(self, outputs: str, num_outputs: int, url: str):
        super().__init__()
        self.outputs, self.url = outputs, url
        if outputs == "softmax-logits" and num_outputs == 1:
            raise DataError(f"{url}: a softmax over one output always says 1: set outputs to logits")

    def extra_repr(self) -> str:
        return self.outputs

    def forward(self, said: Tensor) -> Tensor:
        if self.outputs == "softmax-logits":
            return from_softmax(said)
        if self.outputs == "probabilities":
            self._refuse_others(said)
            return from_probabilities(said)
        return said

    def _refuse_others(self, p: Tensor) -> None:
        low, high = p.aminmax()
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise DataError(
                f"{self.url}: its outputs go from {low:.3g} to {high:.3g}, so they are no probabilities: set "
                "outputs to logits or softmax-logits"
            )
