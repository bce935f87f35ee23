"""The student: a backbone, and a head that works one vertical's block at a time.

Shapes: B batch, D features, N_v classes of vertical v, M verticals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from kcframe.engine.plugin_calls import call_for_tensor, call_plugin, shaped
from kcframe.errors import PluginError
from kcframe.interfaces.backbone import Backbone
from kcframe.interfaces.component import label
from kcframe.interfaces.expander import Expander
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing
from kcframe.interfaces.teacher import prepare_images


class Direct(Expander):
    """No layer between features and classes: a specialist's head."""

    rowwise = True

    def __init__(self, num_features: int, sizes: Sequence[int]):
        super().__init__(PluginOptions(), num_features, sizes)
        self.num_features = num_features

    def block(self, vertical: int, shared: Tensor) -> Tensor:
        return shared

    def block_features(self, vertical: int) -> int:
        return self.num_features


class Head(nn.Module):
    """expander + per-vertical classifiers + pacing. Each vertical's parameters are its own modules."""

    def __init__(
        self,
        expander: Expander,
        pacing: Pacing,
        sizes: Sequence[int],
        *,
        bias: bool = True,
        init_bias: float | str = 0.0,
    ):
        """sizes: (N_1, …, N_M). init_bias: where output biases start; 'base-rate' is -ln(N - 1)."""
        super().__init__()
        self.sizes = tuple(sizes)
        self.expander = expander
        self.pacing = pacing
        self.classifiers = nn.ModuleList(_classifier(expander, v, size, bias) for v, size in enumerate(sizes))
        start = -math.log(max(sum(sizes) - 1, 1)) if init_bias == "base-rate" else float(init_bias)
        if bias:
            for classifier in self.classifiers:
                nn.init.constant_(cast(Tensor, classifier.bias), start)
        pacing.start(cast(list[nn.Linear], list(self.classifiers)))

    def shared(self, features: Tensor) -> Tensor:
        """[B, D] -> what every block starts from [B, D']."""
        return call_plugin(self.expander, "shared", features)

    def block(self, vertical: int, shared: Tensor) -> Tensor:
        """[B, D'] -> one vertical's paced logits [B, N_v], the y of eq. 2 and 4."""
        rows, size = shared.shape[0], self.sizes[vertical]  # len() would fix it in an exported network
        width = self.expander.block_features(vertical)
        hidden = call_for_tensor(self.expander, "block", (rows, width), vertical, shared)
        logits = call_for_tensor(self.classifiers[vertical], "forward", (rows, size), hidden)
        return call_for_tensor(self.pacing, "forward", (rows, size), logits, vertical)


def _classifier(expander: Expander, vertical: int, size: int, bias: bool) -> nn.Module:
    """The expander's own classifier of a vertical, or an nn.Linear."""
    own = call_plugin(expander, "classifier", vertical, size, bias)
    if own is None:
        return nn.Linear(expander.block_features(vertical), size, bias=bias)
    if not isinstance(own, nn.Module):
        raise PluginError(f"{label(expander)}: classifier() gave a {type(own).__name__}, not a module")
    if bias:
        shaped(expander, "the bias of classifier", (size,), getattr(own, "bias", None))
    setattr(own, "provenance", f"{label(expander)}: its classifier")  # noqa: B010 - a module's attributes are typed
    return own


class Student(nn.Module):
    """backbone + head. Takes pictures in 0..1 and normalises them as its backbone wants."""

    def __init__(self, backbone: Backbone, head: Head):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def features(self, images: Tensor) -> Tensor:
        """images: float [B, C, H, W] in 0..1 -> features [B, D]."""
        b = self.backbone
        prepared = prepare_images(images, b.mean, b.std, b.input_size, b.channels)
        return call_for_tensor(b, "forward", (images.shape[0], b.num_features), prepared)

    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, C, H, W] in 0..1 -> all verticals' logits in slot order [B, S]."""
        shared = self.head.shared(self.features(images))
        return torch.cat([self.head.block(v, shared) for v in range(len(self.head.sizes))], 1)


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers, each counted once."""
    return sum(p.numel() for p in module.parameters())
