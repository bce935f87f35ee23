"""Options of the built-in pacing policies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kcframe.interfaces.options import PluginOptions


class SelfPacedOptions(PluginOptions):
    """Equation 4. Defaults: the paper's best variant, 4: one trainable gamma per vertical, from sqrt(N_v).

    The five variants: 1 {trainable: false, variance: 0}, 2 {init: 10}, 3 {level: class, init: 10},
    4 {}, 5 {level: class}.
    """

    level: Literal["vertical", "class"] = Field(
        "vertical", description="one gamma a vertical, or one a class"
    )
    trainable: bool = Field(True, description="false keeps gamma where it starts")
    init: Literal["sqrt-classes"] | float = Field(
        "sqrt-classes", description="mean of gamma's start; sqrt-classes: the square root of N_v"
    )
    variance: float = Field(1e-3, ge=0, le=1e6, description="variance of gamma's start")
    start: Literal["paper", "base-rate"] = Field(
        "paper",
        description="base-rate (ours): gamma's mean times ln N and output biases at -1, so that every class "
        "starts at probability 1/N",
    )
    learning_rate_scale: float = Field(
        1.0, gt=0, le=10_000, description="gamma's learning rate, times the recipe's"
    )
