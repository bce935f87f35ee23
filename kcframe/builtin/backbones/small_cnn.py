"""Backbone `small-cnn`: a few 3x3 convolutions, for small pictures and CPUs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kcframe.builtin.backbones.options import SmallCnnOptions
from kcframe.interfaces.backbone import Backbone


class SmallCnn(Backbone):
    """A convolution at stride 1, then one at stride 2 per further width, each with normalisation and ReLU.

    D is the last width (pool: average), or the last width times the number of positions in the last map
    (pool: flatten). With pool: flatten, `forward` accepts only pictures of the data source's `image_size`.
    """

    name = "small-cnn"
    Options = SmallCnnOptions
    options: SmallCnnOptions

    def __init__(self, options: SmallCnnOptions, channels: int, image_size: int):
        super().__init__(options, channels, image_size)
        layers: list[nn.Module] = []
        width, side = channels, image_size
        for place, next_width in enumerate(options.widths):
            stride = 1 if place == 0 else 2
            normalisation = _normalisation(options.normalisation, next_width)
            bias = not normalisation
            layers += [nn.Conv2d(width, next_width, 3, stride, padding=1, bias=bias), *normalisation]
            layers.append(nn.ReLU(inplace=True))
            width, side = next_width, -(-side // stride)
        if options.pool == "average":
            layers.append(nn.AdaptiveAvgPool2d(1))
            side = 1
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.num_features = width * side**2
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, C, S, S] -> features [B, D]."""
        return self.layers(images)


def _normalisation(kind: str, width: int) -> list[nn.Module]:
    if kind == "batch":
        return [nn.BatchNorm2d(width)]
    if kind == "group":
        # At least eight channels per group: to normalise only a few numbers at 1x1 removes the signal.
        return [nn.GroupNorm(math.gcd(width, max(width // 8, 1)), width)]
    return []
