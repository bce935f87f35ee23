"""Options of the pacing policies `curriculum` and `fade`; imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kcframe.interfaces.options import PluginOptions


class CurriculumOptions(PluginOptions):
    """All verticals together, then one after another. Times are shares of all steps."""

    order: Literal["hardest-last", "hardest-first"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        "hardest-last",
        description="in which verticals come in; or all their numbers, counted from 0 as the data has them",
    )
    hardness: Literal["accuracy", "loss"] = Field(
        "accuracy",
        description="measured when `together` is over: a low accuracy, or a high loss (which grows with a "
        "vertical's classes and images, too), is hard",
    )
    together: float = Field(0.1, ge=0, lt=1, description="until then all verticals have their full weight")
    until: float = Field(
        0.6, ge=0, lt=1, description="when the last vertical comes in; the first does after `together`"
    )
    rise: float = Field(
        0.0, ge=0, le=1, description="how long a vertical's weight takes to its full height; 0: at once"
    )
    least: float = Field(0.0, ge=0, le=1, description="weight of a vertical that waits")

    @model_validator(mode="after")
    def _in_order(self) -> CurriculumOptions:
        if self.until < self.together:
            raise ValueError(f"until {self.until:g} is before together {self.together:g} is over")
        if not isinstance(self.order, str):
            if sorted(self.order) != list(range(len(self.order))):
                raise ValueError(
                    f"order should have every number from 0 to {len(self.order) - 1} once, or be a word"
                )
        elif self.together == 0:
            raise ValueError("together should be above 0: until it is over, hardness is measured")
        return self


class FadeOptions(PluginOptions):
    """From soft to hard targets. Times are shares of all steps."""

    begin: float = Field(0.0, ge=0, le=1, description="until then the soft term counts fully")
    end: float = Field(1.0, ge=0, le=1, description="from then on the hard term counts fully")
    shape: Literal["linear", "cosine"] = Field("linear", description="of the way from the one to the other")
    soft_to: float = Field(0.0, ge=0, le=1, description="the soft term's weight in the end")
    hard_from: float = Field(0.0, ge=0, le=1, description="the hard term's weight in the beginning")

    @model_validator(mode="after")
    def _in_order(self) -> FadeOptions:
        if self.end < self.begin:
            raise ValueError(f"end {self.end:g} is before begin {self.begin:g}")
        return self
