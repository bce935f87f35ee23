"""The interface of backbones: from images to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from kcframe.interfaces.options import PluginOptions


class Backbone(nn.Module, ABC):
    """Subclass it, set `num_features`, and return it from the hook `kcframe_backbone`.

    class Mine(Backbone):
        name = "mine"
        def __init__(self, options, channels, image_size):
            super().__init__(options, channels, image_size)
            self.net = ...
            self.num_features = 512
        def forward(self, images): ...

    Convolutions usually train faster if the constructor ends with
    `self.to(memory_format=torch.channels_last)`. Then reshape their maps with `flatten`, not with `view`.
    """

    name: ClassVar[str]
    Options: ClassVar[type[PluginOptions]] = PluginOptions
    num_features: int
    channels: int
    """The number of channels that `forward` takes. Set it if it differs from the data source's."""

    published_parameters: ClassVar[float | None] = None
    """Number of parameters that the backbone's publication states, for `kcframe describe`; or None."""

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    """The normalisation of its images, (x - mean) / std per channel; one value is used for all channels."""

    input_size: int | None = None
    """The side, in pixels, that its images are resized to; None: no resizing."""

    def __init__(self, options: PluginOptions, channels: int, image_size: int):
        """channels, image_size: of the data source's pictures [B, channels, image_size, image_size]."""
        super().__init__()
        self.options = options
        self.channels = channels

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, C, H, W], already normalised with `mean` and `std` -> features [B, D]."""
