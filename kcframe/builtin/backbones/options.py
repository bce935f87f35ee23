"""Options of the built-in backbones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kcframe.interfaces.options import PluginOptions

Width = Annotated[int, Field(ge=1, le=4096)]


class SmallCnnOptions(PluginOptions):
    """3x3 convolutions: the first keeps the picture's size, each of the others halves it."""

    widths: tuple[Width, ...] = Field(
        (16, 32, 64, 128), min_length=1, max_length=8, description="channels of each convolution"
    )
    normalisation: Literal["batch", "group", "none"] = Field(
        "batch", description="after each convolution; group works for any batch size"
    )
    pool: Literal["average", "flatten"] = Field(
        "flatten", description="features: the average over places (the last width), or every place"
    )


class TorchvisionOptions(PluginOptions):
    """One of torchvision's classification models, without its classifier."""

    model: str = Field(min_length=1, description="its name in torchvision, for example 'resnet18'")
    weights: str | None = Field(
        None,
        min_length=1,
        description="path or URL of a safetensors or torch state-dict file to start from; null: random",
    )
    input_size: int | None = Field(
        None,
        ge=8,
        le=4096,
        description="pictures are resized to this side; null: as they come, where the model can take that",
    )


class InceptionV2Options(PluginOptions):
    """BN-Inception without its classifier."""

    features: Literal["1024", "3x3x1024"] = Field(
        "1024", description="averaged over all places, or in a 3x3 grid: Knowledge Concentration's 9216"
    )
    weights: str | None = Field(
        None,
        min_length=1,
        description="path or URL of a safetensors or torch state-dict file of this network; null: random",
    )
    input_size: int | None = Field(
        None, ge=8, le=4096, description="pictures are resized to this side; null: as they come"
    )
