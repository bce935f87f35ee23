"""A stage's metrics: one JSON object a line, one coherent history whatever interrupted it."""

from __future__ import annotations

import json
from typing import Any

from kcframe.storage.layout import METRICS
from kcframe.storage.run_dir import RunDir


class MetricsLog:
    """Lines kept in memory and written as a whole file, always before the checkpoint they lead up to.

    A resumed stage first drops every line past its checkpoint, so no step stands twice.
    """

    def __init__(self, run_dir: RunDir, folder: str, resume_step: int):
        self.run_dir, self.name = run_dir, f"{folder}/{METRICS}"
        self.lines: list[dict[str, Any]] = []
        if resume_step and run_dir.exists(self.name):
            written = run_dir.read(self.name).decode().splitlines()
            self.lines = [line for line in map(json.loads, written) if line["step"] <= resume_step]

    def add(self, **line: Any) -> None:
        """One line. `step` (finished steps) and `kind` ('step' or 'evaluation') are always in it."""
        self.lines.append(line)

    def flush(self) -> None:
        """Write the file."""
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in self.lines)
        self.run_dir.write(self.name, text)


def read_metrics(run_dir: RunDir, folder: str) -> list[dict[str, Any]]:
    """All lines of a stage, oldest first."""
    return [json.loads(line) for line in run_dir.read(f"{folder}/{METRICS}").decode().splitlines()]
