"""Options of the teacher source `timm`; imports neither torch nor timm."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from kcframe.interfaces.options import PluginOptions


class TimmOptions(PluginOptions):
    """One timm model. What is null is as timm has it for the model and its tag (resnet50.a1_in1k)."""

    model: str = Field(min_length=1, description="as timm.list_models() names it, with or without a tag")
    weights: str = Field(
        min_length=1, description="a .safetensors file, or a .pth with nothing but tensors: a path or any URL"
    )
    label_map: str | dict[int, str] | tuple[str | None, ...] = Field(
        description="our class names: {output: name}, a list by output (null: not asked), or a JSON file of "
        "either"
    )
    outputs: Literal["softmax-logits", "logits"] = Field(
        "softmax-logits",
        description="softmax-logits: their softmax is a class's probability (timm's usual training); logits: "
        "their sigmoid is (trained with --bce-loss)",
    )
    mean: tuple[float, ...] | None = Field(
        None, min_length=1, description="subtracted from pictures in 0..1; one number, or one a channel"
    )
    std: tuple[float, ...] | None = Field(None, min_length=1, description="what is left is divided by it")
    input_size: int | None = Field(None, ge=1, le=10_000, description="pixels a side")
    channels: int | None = Field(None, ge=1, le=1000, description="of the pictures")
    name: str | None = Field(
        None, min_length=1, description="of the teacher; null: the file's, without ending"
    )

    @field_validator("label_map")
    @classmethod
    def _outputs_count_from_0(cls, value):
        if isinstance(value, dict) and any(output < 0 for output in value):
            raise ValueError("outputs are numbered from 0")
        return value

    @model_validator(mode="after")
    def _normalises(self) -> TimmOptions:
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}: give as many")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std should be above 0")
        return self
