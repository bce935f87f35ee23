"""Options of the built-in teacher sources."""

from __future__ import annotations

from pydantic import Field

from kcframe.interfaces.options import PluginOptions


class SpecialistsOptions(PluginOptions):
    """The specialists of this run."""

    verticals: tuple[str, ...] | None = Field(
        None, description="only these verticals' specialists; all if unset"
    )


class CheckpointOptions(PluginOptions):
    """One specialist that another run saved."""

    path: str = Field(min_length=1, description="its weights.safetensors: a path or any fsspec URL")
    label_map: str | None = Field(
        None, description="JSON file {its class name: our class name}; classes left out are not asked"
    )
