"""Options of the data source `synthetic`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from kcframe.interfaces.options import PluginOptions


class SyntheticOptions(PluginOptions):
    """Made-up classes: each is a smooth random pattern, a picture is patterns plus noise."""

    verticals: int | tuple[Annotated[int, Field(ge=1)], ...] = Field(
        4, description="how many, sharing `classes` unevenly; or the size of each"
    )
    classes: int = Field(40, ge=1, le=10_000_000, description="N, where `verticals` is a number")
    train_images: int = Field(1000, ge=1, description="pictures in the train split")
    test_images: int = Field(200, ge=1, description="pictures in the test split")
    labels_per_image: int = Field(1, ge=1, le=16, description="patterns in one picture, of any verticals")
    image_size: int = Field(16, ge=4, le=512, description="side of a picture, in pixels")
    channels: int = Field(1, ge=1, le=4, description="of a picture")
    noise: float = Field(0.3, ge=0, le=10, description="standard deviation of the noise; patterns span 0..1")

    @model_validator(mode="after")
    def _fits(self) -> SyntheticOptions:
        if isinstance(self.verticals, int):
            if self.verticals < 1:
                raise ValueError(f"verticals is at least 1, not {self.verticals}")
            if self.classes < self.verticals:
                raise ValueError(f"{self.classes} classes are too few for {self.verticals} verticals")
        elif not self.verticals:
            raise ValueError("verticals needs at least one size")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """(N_1, …, N_M): as given, or the classes shared out in proportion to 1, 2, …, M."""
        if not isinstance(self.verticals, int):
            return self.verticals
        m, n = self.verticals, self.classes
        total = m * (m + 1) // 2
        sizes = [1 + (n - m) * v // total for v in range(1, m + 1)]
        sizes[-1] += n - sum(sizes)
        return tuple(sizes)
