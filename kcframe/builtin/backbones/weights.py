"""A network's weights from a file that someone else wrote: safetensors, or a torch state dict."""

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

PARALLEL = "module."  # what DataParallel puts before every key
NAMED = 5  # keys that an error names before it only counts them


def load_weights(network: nn.Module, url: str, ignored: Sequence[str] = ()) -> None:
    """Give a network the weights of a file; on the meta device, where there are none to give, do nothing.

    url: path or fsspec URL of a safetensors or torch state-dict file. ignored: beginnings of keys that the
    network may lack. Raises DataError, naming the first keys, if the file is anything but its weights.
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

            found: Any = load(data)
        else:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{url}: neither a safetensors file nor a torch state dict that can be read without running code "
            f"from it ({type(error).__name__}: {reason})"
        ) from None
    for wrapper in ("state_dict", "model"):  # as training scripts save it
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise DataError(f"{url}: not a state dict: names and their tensors, nothing else")
    state = OrderedDict((_current_name(key), value) for key, value in found.items())
    # Some modules read older layouts by the version noted here; MNASNet refuses to do without.
    noted = None if next(iter(found)).startswith(PARALLEL) else getattr(found, "_metadata", None)
    state._metadata = noted or {"": {"version": 2}}  # type: ignore[attr-defined]
    return state


def _current_name(key: str) -> str:
    """Without DataParallel's prefix, and with the names DenseNet has had since PyTorch 0.4."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key.removeprefix(PARALLEL))
