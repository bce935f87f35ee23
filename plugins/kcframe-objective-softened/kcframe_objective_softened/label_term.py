"""The labels' term: sigmoids (eq. 1), or a softmax in which an image may be none of a vertical's classes.

Shapes: B images, N_v classes of the vertical. Beside each loss is its gradient with respect to the logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kcframe.interfaces.objective import SparseTargets


def sigmoid_loss(logits: Tensor, labels: SparseTargets) -> Tensor:
    """Eq. 1: sigmoid cross-entropy summed over the classes, [B]."""
    # torch's default threshold of 20 is off by 2e-9 there.
    return F.softplus(logits, threshold=40).sum(1) - _of_labels(logits, labels, labels.values)


def sigmoid_gradient(logits: Tensor, labels: SparseTargets, out: Tensor) -> None:
    """s(y) - z into out [B, N_v]."""
    torch.sigmoid(logits, out=out)
    out[labels.rows, labels.columns] -= labels.values.to(out.dtype)


def softmax_loss(logits: Tensor, labels: SparseTargets) -> Tensor:
    """Cross-entropy of a softmax over the classes and "none of these", whose logit is 0: [B].

    An image's labels share a target of 1 evenly; one without labels here is none of these. So every image
    says something, and the logits of different verticals compare: each is against the same 0.
    """
    log_sums = F.softplus(logits.logsumexp(1), threshold=40)
    return log_sums - _of_labels(logits, labels, _shared(labels))


def softmax_gradient(logits: Tensor, labels: SparseTargets, out: Tensor) -> None:
    """softmax - targets, of the classes alone, into out [B, N_v]."""
    log_sums = F.softplus(logits.logsumexp(1, keepdim=True), threshold=40)
    torch.exp(logits - log_sums, out=out)
    out[labels.rows, labels.columns] -= _shared(labels).to(out.dtype)


def _of_labels(logits: Tensor, labels: SparseTargets, values: Tensor) -> Tensor:
    listed = values * logits[labels.rows, labels.columns]
    return logits.new_zeros(len(logits)).index_add(0, labels.rows, listed.to(logits.dtype))


def _shared(labels: SparseTargets) -> Tensor:
    sums = labels.values.new_zeros(labels.shape[0]).index_add(0, labels.rows, labels.values)
    return labels.values / sums.clamp_min(1)[labels.rows]  # what an unsure label leaves is none of these's
