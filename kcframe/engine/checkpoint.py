"""Trees of tensors and plain values in one safetensors file: no pickle, written at once.

Tensors go into the file under their path ("optimizer/state/0/exp_avg"); everything else goes into its
header as JSON, with a mark where each tensor was.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from kcframe.errors import RunDirError

HEADER = "kcframe"
MARK = "__tensor__"


def pack(tree: Any) -> bytes:
    """A tree of dicts, lists, tensors, numbers, strings and None as bytes."""
    tensors: dict[str, torch.Tensor] = {}

    def strip(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            # A copy: safetensors refuses tensors that share memory, and wants them contiguous.
            tensors[path] = value.detach().cpu().contiguous().clone()
            return {MARK: path}
        if isinstance(value, dict):
            # Keys may be numbers (optimizer states are), which JSON would turn into strings.
            return {"__dict__": [[k, strip(v, f"{path}/{k}" if path else str(k))] for k, v in value.items()]}
        if isinstance(value, (list, tuple)):
            return [strip(v, f"{path}/{n}") for n, v in enumerate(value)]
        return value

    header = json.dumps(strip(tree, ""), ensure_ascii=False)
    return save_safetensors(tensors, metadata={HEADER: header})


def unpack(data: bytes, source: str) -> Any:
    """What `pack` made. source: for the error. Raises RunDirError if the file is damaged or another's."""
    tensors, tree = _read(data, source)

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return tensors[value[MARK]] if MARK in value else {k: fill(v) for k, v in value["__dict__"]}
        return [fill(v) for v in value] if isinstance(value, list) else value

    return fill(tree)


def laid_out_like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value`, as a file has it, in the memory format (channels last, say) of a tensor of its shape."""
    if value.shape != tensor.shape or value.stride() == tensor.stride():
        return value
    return torch.empty_like(tensor, device=value.device, dtype=value.dtype).copy_(value)


def pack_weights(state: dict[str, torch.Tensor], about: dict[str, Any]) -> bytes:
    """A network's state dict under its own names, and in the header what it takes to rebuild it."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return save_safetensors(tensors, metadata={HEADER: json.dumps(about, ensure_ascii=False)})


def unpack_weights(data: bytes, source: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state dict, about). Raises RunDirError if the file is damaged or not one of kcframe's."""
    return _read(data, source)


def _read(data: bytes, source: str) -> tuple[dict[str, torch.Tensor], Any]:
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][HEADER])
        return load_safetensors(data), header
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RunDirError(
            f"{source}: not a file that kcframe wrote, or damaged ({type(error).__name__}: {error})"
        ) from None
