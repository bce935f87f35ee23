"""Options of the built-in expanders."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kcframe.interfaces.options import PluginOptions


class FcOptions(PluginOptions):
    """Two layers: s1 units, then s2 units."""

    s1: int = Field(4096, ge=1, le=1_000_000, description="units of the first layer (a vertical's, in sc-sc)")
    s2: int = Field(512, ge=1, le=1_000_000, description="units of the second layer (a vertical's, if SC)")
    normalisation: Literal["batch", "layer", "none"] = Field(
        "none", description="of each layer's units before the ReLU; the paper states none"
    )


class FcScSharedOptions(FcOptions):
    """As fc-sc, with x of the s2 units shared by all verticals."""

    x: int = Field(128, ge=0, description="units of the second layer that all verticals share")

    @model_validator(mode="after")
    def _x_fits(self) -> FcScSharedOptions:
        if self.x > self.s2:
            raise ValueError(f"x = {self.x} units cannot be shared out of s2 = {self.s2}: x is at most s2")
        return self
