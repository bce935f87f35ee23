"""What the benchmarks share: time, spreads as text, and files for machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from kcframe.storage import writing as write


def spread(values: Sequence[float], digits: int = 3) -> str:
    """'1.042 (1.031–1.060)': median, lowest, highest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def waited_for(device: torch.device, action: Callable[[], object]) -> float:
    """Seconds that an action takes, a GPU's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def name_of(device: torch.device) -> str:
    """A device as a table's title would have it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def write_json(found: dict[str, Any], json_file: str | None) -> None:
    """Write the figures, if a file was asked for. RunDirError if that cannot be."""
    if json_file is not None:
        write.write_json(json_file, found)
