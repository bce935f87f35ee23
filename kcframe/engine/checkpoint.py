"""Trees of tensors and plain values in one safetensors file: no pickle, written at once.

Tensors go into the file under their path ("optimizer/state/0/exp_avg"); everything else goes into its
header as JSON, with a mark where each tensor was.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from kcframe.errors import RunDirError

HEADER = "kcframe"
# Both stand in the one header, because safetensors writes several in any order, and so other bytes each time.
CHECKSUMS = "crc32"  # of a checkpoint: its tree's under "", and each tensor's
CHECKSUM = "sha256"  # of weights: over what the header says and all tensors
MARK = "__tensor__"
MEMORY_ADDRESS = re.compile(r"0x[0-9a-f]+")


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

    plain = strip(tree, "")
    return save_safetensors(
        tensors, metadata={HEADER: _text({"tree": plain, CHECKSUMS: _checksums(plain, tensors)})}
    )


def unpack(data: bytes, source: str) -> Any:
    """What `pack` made. source: for the error. Raises RunDirError if the file is damaged or another's."""
    tensors, tree = _read(data, source)
    if isinstance(tree, dict) and CHECKSUMS in tree:  # an earlier kcframe wrote none
        expected, tree = tree[CHECKSUMS], tree.get("tree")
        there = _checksums(tree, tensors)
        if wrong := [name for name in {**expected, **there} if there.get(name) != expected.get(name)]:
            raise RunDirError(_damaged(source, wrong[0] or "its header"))

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return tensors[value[MARK]] if MARK in value else {k: fill(v) for k, v in value["__dict__"]}
        return [fill(v) for v in value] if isinstance(value, list) else value

    try:
        return fill(tree)
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirError(f"{source}: damaged: its header is not a checkpoint's ({error!r})") from None


def laid_out_like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value`, as a file has it, in the memory format (channels last, say) of a tensor of its shape."""
    if value.shape != tensor.shape or value.stride() == tensor.stride():
        return value
    return torch.empty_like(tensor, device=value.device, dtype=value.dtype).copy_(value)


def pack_weights(state: dict[str, torch.Tensor], about: dict[str, Any]) -> bytes:
    """A network's state dict under its own names, and in the header what it takes to rebuild it."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return save_safetensors(tensors, metadata={HEADER: _text(about | {CHECKSUM: _sha256(about, tensors)})})


def unpack_weights(data: bytes, source: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state dict, about). Raises RunDirError if the file is damaged or not one of kcframe's."""
    tensors, about = _read(data, source)
    if not isinstance(about, dict):
        raise RunDirError(f"{source}: damaged: its header is not that of weights")
    checksum = about.pop(CHECKSUM, None)
    if checksum is not None and checksum != _sha256(about, tensors):  # an earlier kcframe wrote none
        raise RunDirError(_damaged(source, "header or weights"))
    return tensors, about


def digest(state: dict[str, Any]) -> str:
    """SHA-256 of tensors, or of what `get_extra_state` gives instead, with their names, types and shapes."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if isinstance(tensor, dict):
            sha.update(f"{name}: {digest(tensor)}\n".encode())
            continue
        if not isinstance(tensor, torch.Tensor):
            sha.update(f"{name}: {MEMORY_ADDRESS.sub('', repr(tensor))}\n".encode())
            continue
        sha.update(f"{name}: {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            sha.update(_bytes_of(tensor))
    return sha.hexdigest()


def _text(header: Any) -> str:
    return json.dumps(header, ensure_ascii=False)


def _sha256(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(f"{_text(about)}\n{digest(tensors)}".encode()).hexdigest()


def _checksums(tree: Any, tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    return {"": zlib.crc32(_text(tree).encode())} | {name: _crc32(tensor) for name, tensor in tensors.items()}


def _crc32(tensor: torch.Tensor) -> int:
    return zlib.crc32(_bytes_of(tensor)) if tensor.numel() else 0


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _damaged(source: str, what: str) -> str:
    return (
        f"{source}: damaged: the checksum of {what} is wrong (a flipped bit, or a file that somebody "
        "changed): put back a copy of the file, or delete it to train from before it"
    )


def _read(data: bytes, source: str) -> tuple[dict[str, torch.Tensor], Any]:
    """(tensors, what the header says)."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][HEADER])
        return load_safetensors(data), header
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RunDirError(
            f"{source}: not a file that kcframe wrote, or damaged ({type(error).__name__}: {error})"
        ) from None
