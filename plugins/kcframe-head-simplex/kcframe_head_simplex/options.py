"""Options of the expander `simplex`; imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from kcframe.interfaces.options import PluginOptions

Count = Annotated[int, Field(ge=1, le=1_000_000)]


class SimplexOptions(PluginOptions):
    """As fc-sc, and a simplex a vertical."""

    s1: int = Field(4096, ge=1, le=1_000_000, description="units of the first layer, shared")
    s2: int = Field(512, ge=1, le=1_000_000, description="units of the second layer, a vertical's")
    normalisation: Literal["batch", "layer", "none"] = Field(
        "none", description="of each layer's units before the ReLU"
    )
    vertices: Count | tuple[Count, ...] | None = Field(
        None,
        description="of each vertical's simplex, one number or one a vertical: one more than it has classes, "
        "for none of these, and room for classes to come; null: one more. Features have one dimension fewer",
    )
