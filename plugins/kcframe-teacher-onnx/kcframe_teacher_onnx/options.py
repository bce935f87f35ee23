"""Options of the teacher source `onnx`; imports neither torch nor onnxruntime."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from kcframe.interfaces.options import PluginOptions


class OnnxOptions(PluginOptions):
    """One ONNX classifier. Required is what only its owner knows and no check can find out."""

    path: str = Field(min_length=1, description="the .onnx file: a path or any fsspec URL")
    label_map: str | dict[int, str] | tuple[str | None, ...] | None = Field(
        None,
        description="our class names: {output: name}, a list by output (null: not asked), or a JSON file of "
        "either; null: the names in the model's own metadata",
    )
    outputs: Literal["logits", "softmax-logits", "probabilities"] = Field(
        description="logits: their sigmoid is a class's probability; softmax-logits: their softmax is; "
        "probabilities: of a sigmoid or a softmax"
    )
    mean: tuple[float, ...] = Field(
        min_length=1,
        description="subtracted from pictures in 0..1; one number, or one a channel; [0]: nothing",
    )
    std: tuple[float, ...] = Field(
        min_length=1, description="what is left is divided by it; [1]: stays as it is; [0.0039215686]: 0..255"
    )
    input_size: int | None = Field(
        None, ge=1, le=10_000, description="pixels a side; null: the model's, or the data's if it takes any"
    )
    channels: int | None = Field(None, ge=1, le=1000, description="null: the model's")
    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="order of the input's dimensions")
    input: str | None = Field(None, description="the input that takes pictures; null: the only one")
    output: int | str | None = Field(
        None, description="name or number of the output that holds the classes; null: the only one"
    )
    providers: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="onnxruntime's execution providers; null: CUDA where the student is on a GPU, else CPU",
    )
    name: str | None = Field(
        None, min_length=1, description="of the teacher; null: the file's, without .onnx"
    )

    @field_validator("label_map", "output")
    @classmethod
    def _outputs_count_from_0(cls, value):
        numbers = value if isinstance(value, dict) else [value]
        if any(isinstance(number, int) and number < 0 for number in numbers):
            raise ValueError("outputs are numbered from 0")
        return value

    @model_validator(mode="after")
    def _normalises(self) -> OnnxOptions:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}: give as many")
        if min(self.std) <= 0:
            raise ValueError("std should be above 0")
        return self
