"""Base class of every plugin's options: an immutable pydantic model that rejects unknown names.

    class Options(PluginOptions):
        rate: float = Field(0.5, gt=0, le=1, description="share of the gap closed a step")

This module does not import torch, so that a recipe can be validated without it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PluginOptions(BaseModel):
    """No options. Subclass it and add fields, each with bounds and a description."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
