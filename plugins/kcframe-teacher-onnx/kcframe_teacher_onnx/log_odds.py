"""What networks put out, as logits whose sigmoid is the class's probability: what objectives soften.

The log-odds log p - log(1 - p) of a probability p is such a logit, whether p came from a sigmoid or from a
softmax. A softmax's own logits are not: they may all be shifted by any number. B images, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kcframe.errors import DataError

TOLERANCE = 1e-3  # by which probabilities in short formats may leave 0..1


class FromSoftmaxLogits(nn.Module):
    """Logits of a softmax over all C >= 2 outputs -> log-odds; float [B, C] to float32 [B, C]."""

    # twin of kcframe_teacher_timm.log_odds

    def forward(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        log_p = logits.log_softmax(1)
        odds = log_p - torch.log1p(-log_p.exp())
        # Where p is near 1, 1 - p is rounded away; the sum over the other outputs is not.
        best, column = logits.max(1, keepdim=True)
        others = logits.scatter(1, column, -torch.inf).logsumexp(1, keepdim=True)
        return odds.scatter(1, column, best - others)


class FromProbabilities(nn.Module):
    """Probabilities -> log-odds; float [B, C] to float32 [B, C], between -87.4 and 16.7.

    A softmax's probabilities give the same as its logits, but for the rounding of those close to 1.
    Raises DataError, naming `url`, if they are no probabilities.
    """

    def __init__(self, url: str):
        super().__init__()
        self.url = url

    def forward(self, probabilities: Tensor) -> Tensor:
        p = probabilities.float()
        low, high = p.aminmax()
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise DataError(
                f"{self.url}: its outputs go from {low:.3g} to {high:.3g}, so they are no probabilities: set "
                "outputs to logits or softmax-logits"
            )
        limits = torch.finfo(torch.float32)
        p = p.clamp(limits.tiny, 1 - limits.eps / 2)
        return p.log() - torch.log1p(-p)


class Columns(nn.Module):
    """Keeps some of the outputs: [B, C] -> [B, C']."""

    # twin of kcframe.builtin.teachers.saved._Columns

    def __init__(self, columns: list[int]):
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns))

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, self.columns]
