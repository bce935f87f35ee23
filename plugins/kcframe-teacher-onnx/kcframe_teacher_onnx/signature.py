"""What a model takes and gives, from its own description and the options, which must agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kcframe.errors import DataError, did_you_mean
from kcframe_teacher_onnx.options import OnnxOptions

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMATS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True)
class Signature:
    """input, output: names. dtype: of the input. nhwc: whether channels come last. batch_size: None is any.
    channels: of the pictures. input_size: pixels a side, None is any."""

    input: str
    output: str
    dtype: type[np.generic]
    nhwc: bool
    batch_size: int | None
    channels: int
    input_size: int | None


def read_signature(session: InferenceSession, options: OnnxOptions) -> Signature:
    """Raises DataError, naming the file, if it is no classifier of square pictures or options differ."""
    url, nhwc = options.path, options.layout == "NHWC"
    picture = _input(session, options)
    # An open dimension has a name, or nothing, in place of a number.
    batch_size, *rest = (size if isinstance(size, int) and size > 0 else None for size in picture.shape)
    height, width, channels = rest if nhwc else (*rest[1:], rest[0])
    hint = _other_layout(rest, nhwc)
    if height and width and height != width:
        raise DataError(
            f"{url}: its pictures are {height} × {width} in layout {options.layout}; kcframe makes square "
            f"ones{hint}"
        )
    channels = _agreed("channels", channels, options.channels, url, hint)
    input_size = _agreed("input_size", height or width, options.input_size, url, hint)
    if channels is None:
        raise DataError(f"{url}: the model does not say its number of channels: set channels")
    if len(options.mean) not in (1, channels):
        raise DataError(f"{url}: mean and std have {len(options.mean)} numbers for {channels} channels{hint}")
    if picture.type not in FORMATS:
        raise DataError(
            f"{url}: input '{picture.name}' is a {picture.type}; kcframe gives one of {', '.join(FORMATS)}"
        )
    dtype = FORMATS[picture.type]
    if dtype is np.uint8 and (set(options.mean), set(options.std)) != ({0.0}, {1.0}):
        raise DataError(f"{url}: takes bytes, which kcframe makes of 0..1 by itself: set mean [0], std [1]")
    return Signature(picture.name, _output(session, options), dtype, nhwc, batch_size, channels, input_size)


def _agreed(what: str, own: int | None, given: int | None, url: str, hint: str) -> int | None:
    if own and given and own != given:
        raise DataError(f"{url}: {what} is {given}, but the model's own is {own}{hint}")
    return own or given


def _input(session: InferenceSession, options: OnnxOptions) -> Any:
    url, name = options.path, options.input
    inputs = {each.name: each for each in session.get_inputs()}
    of_pictures = [each for each in inputs if len(inputs[each].shape) == 4]
    if name is None and len(of_pictures) != 1:
        raise DataError(
            f"{url}: {len(of_pictures) or 'none'} of its inputs could be pictures: {_listed(inputs.values())}"
        )
    name = of_pictures[0] if name is None else name
    if name not in inputs:
        raise DataError(f"{url}: no input '{name}'; {did_you_mean(name, inputs)}")
    if name not in of_pictures:
        raise DataError(f"{url}: this input cannot be pictures: {_listed([inputs[name]])}")
    if others := [each for each in inputs if each != name]:
        raise DataError(f"{url}: besides pictures it wants '{others[0]}', which kcframe does not have")
    return inputs[name]


def _output(session: InferenceSession, options: OnnxOptions) -> str:
    url, wanted = options.path, options.output
    outputs = [each.name for each in session.get_outputs()]
    if wanted is None and len(outputs) > 1:
        raise DataError(f"{url}: set output to the one with the classes: {_listed(session.get_outputs())}")
    if isinstance(wanted, str):
        if wanted not in outputs:
            raise DataError(f"{url}: no output '{wanted}'; {did_you_mean(wanted, outputs)}")
        return wanted
    if (number := wanted or 0) >= len(outputs):
        raise DataError(f"{url}: no output number {number}; it has {len(outputs)}, counted from 0")
    return outputs[number]


def _other_layout(dimensions: Sequence[int | None], nhwc: bool) -> str:
    """The tail of a message where the model's three last dimensions look like the other layout's."""
    here, there = (2, 0) if nhwc else (0, 2)
    if dimensions[there] in (1, 3) and dimensions[here] not in (1, 3, None):
        return f"; is its layout {'NCHW' if nhwc else 'NHWC'}?"
    return ""


def _listed(arguments) -> str:
    return ", ".join(f"'{each.name}' {each.shape}" for each in arguments)
