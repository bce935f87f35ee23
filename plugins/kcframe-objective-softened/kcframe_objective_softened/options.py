"""Options of the objective `softened`; imports no torch."""

from typing import Literal

from pydantic import Field

from kcframe.interfaces.options import PluginOptions


class SoftenedOptions(PluginOptions):
    """KL between softened softmaxes, and the labels' own term."""

    temperature: float = Field(2.0, gt=0, le=100, description="T, of both softmaxes")
    k: int | None = Field(
        None,
        ge=1,
        description="K: most probable classes kept of each teacher, an image; the student's softmax is then "
        "over all of the vertical's classes. null: all are kept, and it is over those that were named",
    )
    teacher: Literal["logits", "probabilities"] = Field(
        "logits",
        description="what a teacher's softmax is made of: its logits (of sigmoids), or their log "
        "probabilities, which is the softmax it was trained with, if it was",
    )
    labels: Literal["sigmoid", "softmax"] = Field(
        "sigmoid",
        description="the hard term; sigmoid: eq. 1; softmax: over a vertical's classes and 'none of these'",
    )
    soft_weight: float = Field(1.0, gt=0, le=1000, description="weight of the teachers' term, beside T^2")
    hard_weight: float = Field(
        1.0, ge=0, le=1000, description="weight of the labels' term; without it verticals are not told apart"
    )
