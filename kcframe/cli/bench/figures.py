"""Functions that the benchmarks share: they time an action, print a spread and write figures as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from kcframe.storage import writing

if TYPE_CHECKING:
    import torch


def spread(values: Sequence[float], digits: int = 3) -> str:
    """'1.042 (1.031–1.060)': median, lowest, highest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def waited_for(device: torch.device, action: Callable[[], object]) -> float:
    """Seconds that an action takes, including its work on a GPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def name_of(device: torch.device) -> str:
    """A device's name for a table's title."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def write_json(figures: dict[str, Any], json_file: str | None) -> None:
    """Write the figures to a file, unless `json_file` is None. RunDirError if the file cannot be written."""
    if json_file is not None:
        writing.write_json(json_file, figures)
