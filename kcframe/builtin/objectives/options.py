"""Options of the built-in objectives."""

from __future__ import annotations

from pydantic import Field

from kcframe.interfaces.options import PluginOptions


class TopKBceOptions(PluginOptions):
    """Equation 2. The defaults are the paper's; temperature and hard_weight are ours."""

    k: int = Field(100, ge=1, description="K: most probable classes kept of each teacher, an image")
    temperature: float = Field(1.0, gt=0, le=100, description="T: sigmoid(x / T) on both sides")
    hard_weight: float = Field(0.0, ge=0, le=1000, description="weight of the labels' own cross-entropy")
