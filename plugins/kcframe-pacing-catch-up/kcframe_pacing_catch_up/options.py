"""Options of the pacing `catch-up`; imports no torch."""

from pydantic import Field

from kcframe.interfaces.options import PluginOptions


class CatchUpOptions(PluginOptions):
    """Accuracy-driven weights. The default of `threshold` is LFME's, and `least` is ours."""

    threshold: float = Field(
        0.3,
        ge=0,
        le=1,
        description="a: up to this share of its teacher's accuracy the student listens fully; 1: until it is "
        "level with it, and then no more",
    )
    least: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight that every teacher keeps; 0: one caught up with is silent",
    )
