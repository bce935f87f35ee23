"""Backbone `inception-v2`: BN-Inception, the base network of Knowledge Concentration."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kcframe.builtin.backbones.options import InceptionV2Options
from kcframe.builtin.backbones.weights import load_weights
from kcframe.interfaces.backbone import Backbone


class Spec(NamedTuple):
    """Channels of an inception module's branches. With one: None and projection: None it halves the picture.

    one: 1x1. three: 1x1, then 3x3. double: 1x1, then 3x3 twice. pool, projection: 3x3 pooling, then 1x1.
    """

    name: str
    one: int | None
    three: tuple[int, int]
    double: tuple[int, int]
    pool: str
    projection: int | None


MODULES = (
    Spec("3a", 64, (64, 64), (64, 96), "average", 32),
    Spec("3b", 64, (64, 96), (64, 96), "average", 64),
    Spec("3c", None, (128, 160), (64, 96), "max", None),
    Spec("4a", 224, (64, 96), (96, 128), "average", 128),
    Spec("4b", 192, (96, 128), (96, 128), "average", 128),
    Spec("4c", 160, (128, 160), (128, 160), "average", 96),
    Spec("4d", 96, (128, 192), (160, 192), "average", 96),
    Spec("4e", None, (128, 192), (192, 256), "max", None),
    Spec("5a", 352, (192, 320), (160, 224), "average", 128),
    Spec("5b", 352, (192, 320), (192, 224), "max", 128),
)


class InceptionV2(Backbone):
    """Ioffe & Szegedy 2015 (arXiv:1502.03167), figure 5, with its plain 7x7 stem at stride 2.

    10,169,984 parameters for 3 channels: convolutions without bias, batch normalisation with scale and shift.
    The figure's widths for 4c and 4d add up to 608 channels, but it states 576. These are the widths of
    TF-slim's inception_v2, which add up to 576. With slim's stem (separable, with bias) and slim's way of
    counting (shift, mean and variance) this table has 10,173,112 parameters, as slim's own test states. With
    128 instead of 96, and biases, it has 10,270,240, as Caffe's BN-Inception.

    Pictures must have 32 pixels or more; the last map is [1024, S/32, S/32], S/32 rounded up.
    """

    name = "inception-v2"
    Options = InceptionV2Options
    options: InceptionV2Options
    published_parameters = 11.7 * 2**20

    def __init__(self, options: InceptionV2Options, channels: int, image_size: int):
        super().__init__(options, channels, image_size)
        self.input_size = options.input_size
        self.stem = nn.Sequential(
            _convolution(channels, 64, 7, stride=2),
            nn.MaxPool2d(3, stride=2, padding=1),
            _convolution(64, 64, 1),
            _convolution(64, 192, 3),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        width = 192
        for spec in MODULES:
            modules[spec.name] = module = _Inception(width, spec)
            width = module.num_channels
        self.inception = nn.Sequential(modules)
        side = 3 if options.features == "3x3x1024" else 1
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.num_features = width * side**2
        if options.weights is not None:
            load_weights(self, options.weights)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, C, S, S] -> features [B, D], D = 1024 or 9216."""
        return self.pool(self.inception(self.stem(images))).flatten(1)


class _Inception(nn.Module):
    """[B, in, H, W] -> [B, num_channels, H, W], or half of H and W (rounded up) where it reduces."""

    def __init__(self, width: int, spec: Spec):
        super().__init__()
        stride = 2 if spec.one is None else 1
        pool = nn.MaxPool2d if spec.pool == "max" else _AveragePool
        branches: list[nn.Module] = []
        if spec.one is not None:
            branches.append(_convolution(width, spec.one, 1))
        branches.append(
            nn.Sequential(_convolution(width, spec.three[0], 1), _convolution(*spec.three, 3, stride=stride))
        )
        branches.append(
            nn.Sequential(
                _convolution(width, spec.double[0], 1),
                _convolution(*spec.double, 3),
                _convolution(spec.double[1], spec.double[1], 3, stride=stride),
            )
        )
        branches.append(pool(3, stride=stride, padding=1))
        if spec.projection is not None:
            branches[-1] = nn.Sequential(branches[-1], _convolution(width, spec.projection, 1))
        self.branches = nn.ModuleList(branches)
        last = width if spec.projection is None else spec.projection
        self.num_channels = (spec.one or 0) + spec.three[1] + spec.double[1] + last

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([branch(maps) for branch in self.branches], 1)


class _AveragePool(nn.AvgPool2d):
    def __init__(self, side: int, stride: int, padding: int):
        super().__init__(side, stride, padding, count_include_pad=False)


def _convolution(width: int, next_width: int, side: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, next_width, side, stride, padding=side // 2, bias=False),
        nn.BatchNorm2d(next_width, eps=1e-3),
        nn.ReLU(inplace=True),
    )
