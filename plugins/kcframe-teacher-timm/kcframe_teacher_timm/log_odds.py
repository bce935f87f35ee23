"""What networks put out, as logits whose sigmoid is the class's probability: what objectives soften.

The log-odds log p - log(1 - p) of a softmax's probability p are such logits. A softmax's own logits are not:
they may all be shifted by any number. B images, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FromSoftmaxLogits(nn.Module):
    """Logits of a softmax over all C >= 2 outputs -> log-odds; float [B, C] to float32 [B, C]."""

    # twin of kcframe_teacher_onnx.log_odds

    def forward(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        log_p = logits.log_softmax(1)
        odds = log_p - torch.log1p(-log_p.exp())
        # Where p is near 1, 1 - p is rounded away; the sum over the other outputs is not.
        best, column = logits.max(1, keepdim=True)
        others = logits.scatter(1, column, -torch.inf).logsumexp(1, keepdim=True)
        return odds.scatter(1, column, best - others)


class Columns(nn.Module):
    """Keeps some of the outputs: [B, C] -> [B, C']."""

    # twin of kcframe.builtin.teachers.saved._Columns

    def __init__(self, columns: list[int]):
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns))

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, self.columns]
