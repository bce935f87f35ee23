"""Where the engine meets plugins: what they raise and what they return is said in their name."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor

from kcframe.errors import KcframeError, PluginError
from kcframe.interfaces.component import label


def call_plugin(plugin: Any, method: str, *arguments: Any) -> Any:
    """Call a plugin's method. What it raises becomes a PluginError with its name, file and line."""
    try:
        # Modules are called, not their forward: somebody may have hooks on them.
        return plugin(*arguments) if method == "forward" else getattr(plugin, method)(*arguments)
    except (KcframeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a stranger's code: anything may come
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise PluginError(
            f"{label(plugin)}: {method}() failed: {type(error).__name__}: {error} "
            f"({frame.filename}:{frame.lineno})"
        ) from error


def call_for_tensor(plugin: Any, method: str, shape: tuple[int, ...], *arguments: Any) -> Tensor:
    """Call a plugin's method that gives a tensor of `shape`. PluginError if it gives anything else."""
    return shaped(plugin, method, shape, call_plugin(plugin, method, *arguments))


def shaped(plugin: Any, what: str, shape: tuple[int, ...], given: Any) -> Tensor:
    """`given`, which `what` gave, if it is a floating-point tensor of `shape`; else PluginError."""
    if isinstance(given, Tensor) and given.shape == shape and given.is_floating_point():
        return given
    wanted = f"floats [{', '.join(map(str, shape))}]"
    raise PluginError(f"{label(plugin)}: {what}() gave {_described(given)}, not {wanted}")


def named_terms(objective: Any, what: str, num_images: int, given: Any) -> dict[str, Tensor]:
    """`given`, which `what` gave, if it is a loss's terms: by name, each [num_images] or a scalar."""
    if not isinstance(given, dict) or not given:
        raise PluginError(f"{label(objective)}: {what}() gave a {type(given).__name__}, not named terms")
    for name, term in given.items():
        scalar = isinstance(term, Tensor) and term.dim() == 0
        shaped(objective, f"the term '{name}' of {what}", () if scalar else (num_images,), term)
    return given


def finite(plugin: Any, what: str, given: Tensor) -> Tensor:
    """`given`, if all of it is finite. On a GPU this waits for it."""
    if bool(given.isfinite().all()):
        return given
    raise PluginError(f"{label(plugin)}: {what}() gave numbers that are not finite")


def _described(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"{str(given.dtype).removeprefix('torch.')} [{', '.join(map(str, given.shape))}]"
    return f"a {type(given).__name__}"
