"""A state dict from a file's bytes: tensors by name, and never code."""

from __future__ import annotations

import argparse
import io
from collections.abc import Collection, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from kcframe.errors import DataError

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""What training scripts put the weights under, timm's own preference first."""

SHOWN = 3  # names in a message


def read_state_dict(data: bytes, url: str) -> dict[str, Tensor]:
    """data: a safetensors file, or what torch.save wrote. url: where it came from.

    Raises DataError if it is neither, or holds other things than tensors.
    """
    content = _loaded(data, url)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise DataError(
            f"{url}: holds {_described(content)}, not a state dict (model.state_dict(), by itself or "
            f"under one of {', '.join(WRAPPERS)})"
        )
    # DistributedDataParallel and torch.compile put their names in front, in either order.
    return {name.replace("_orig_mod.", "").removeprefix("module."): v for name, v in content.items()}


def _loaded(data: bytes, url: str) -> Any:
    if data[8:9] == b"{":  # safetensors: the header's length in 8 bytes, then the header, JSON
        try:
            return load_safetensors(data)
        except SafetensorError as error:
            raise DataError(f"{url}: not a whole safetensors file ({error})") from None
    try:
        # timm's own training keeps its arguments beside the weights: a Namespace, which runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, none of them documented
        raise DataError(
            f"{url}: neither a safetensors file nor a .pth file of tensors alone. Anything else in it would "
            "have to be run to be read; where you trust it, write its weights anew: "
            f"safetensors.torch.save_file(model.state_dict(), …) ({str(error).partition(chr(10))[0][:200]})"
        ) from None


def refuse_others(model: nn.Module, state: Mapping[str, Tensor], url: str, name: str) -> None:
    """Raises DataError unless names and shapes of a state dict are this model's. name: the model's."""
    own = model.state_dict()
    problems = []
    if missing := [key for key in own if key not in state]:
        problems.append(f"missing: {_some(missing)}")
    if unexpected := sorted(set(state) - set(own)):  # safetensors has no order
        problems.append(f"unexpected: {_some(unexpected)}")
    if other := [key for key in own if key in state and own[key].shape != state[key].shape]:
        shapes = [f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}" for key in other]
        problems.append(f"of another shape: {_some(shapes)}")
    if problems:
        raise DataError(f"{url}: not the weights of this '{name}'; {'; '.join(problems)}")


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"a mapping with {_some([str(key) for key in content])}" if content else "nothing"
