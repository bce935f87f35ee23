"""The interface of backbones: images to features."""

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

    Convolutions mostly train faster if the constructor ends with
    `self.to(memory_format=torch.channels_last)`; then cut their maps with `flatten`, not with `view`.
    """

    name: ClassVar[str]
    Options: ClassVar[type[PluginOptions]] = PluginOptions
    num_features: int
    channels: int
    """The channels its `forward` takes; set it where it differs from the data source's."""

    published_parameters: ClassVar[float | None] = None
    """What the backbone's source counts for it, for `kcframe describe` to compare with; else None."""

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    """Its own normalisation, (x - mean) / std a channel; one value serves all channels."""

    input_size: int | None = None
    """The side its images are resized to, in pixels; None takes them as they come."""

    def __init__(self, options: PluginOptions, channels: int, image_size: int):
        """channels, image_size: of the data source's pictures [B, channels, image_size, image_size]."""
        super().__init__()
        self.options = options
        self.channels = channels

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, C, H, W], already normalised with `mean` and `std` -> features [B, D]."""
