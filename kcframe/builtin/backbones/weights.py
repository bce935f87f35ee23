"""Loads a network's weights from a file of another program: safetensors, or a torch state dict."""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kcframe.errors import DataError
from kcframe.storage.remote import read_file, without_secrets

PARALLEL = "module."  # prefix that DataParallel adds to every key
NAMED = 5  # most keys that an error lists by name


def load_weights(network: nn.Module, url: str, ignored: Sequence[str] = ()) -> None:
    """Loads the weights of a file into a network. Does nothing for a network on the meta device.

    url: path or fsspec URL of a safetensors or torch state-dict file. ignored: prefixes of keys in the file
    that are skipped. Raises DataError, naming the first keys, if the file does not match the network.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    data, url = read_file(url, "weights"), without_secrets(url)
    state = _state_of(data, url)
    for key in [key for key in state if key.startswith(tuple(ignored))]:
        del state[key]
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise DataError(f"{url}: these weights do not fit: {error}") from None
    # Files from before PyTorch 0.4.1 do not count batches.
    missing = [key for key in missing if not key.endswith(".num_batches_tracked")]
    problems = [
        f"{what} {', '.join(keys[:NAMED])}{f' and {len(keys) - NAMED} more' if len(keys) > NAMED else ''}"
        for what, keys in (("it lacks", missing), ("it has besides", unexpected))
        if keys
    ]
    if problems:
        raise DataError(f"{url}: these weights are of another network: {'; '.join(problems)}")


def _state_of(data: bytes, url: str) -> OrderedDict[str, Tensor]:
    try:
        if data[8:9] == b"{":  # safetensors: the header's length in 8 bytes, then the header in JSON
            from safetensors.torch import load

            content: Any = load(data)
        else:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{url}: neither a safetensors file nor a torch state dict that can be read without running code "
            f"from it ({type(error).__name__}: {reason})"
        ) from None
    for wrapper in ("state_dict", "model"):  # training scripts often wrap the state dict
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise DataError(f"{url}: not a state dict: names and their tensors, nothing else")
    state = OrderedDict((_current_name(key), value) for key, value in content.items())
    # Modules use the version in this metadata to read older layouts; MNASNet fails without it.
    noted = None if next(iter(content)).startswith(PARALLEL) else getattr(content, "_metadata", None)
    state._metadata = noted or {"": {"version": 2}}  # type: ignore[attr-defined]
    return state


def _current_name(key: str) -> str:
    """The key without DataParallel's prefix, and with the names that DenseNet has since PyTorch 0.4."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key.removeprefix(PARALLEL))
