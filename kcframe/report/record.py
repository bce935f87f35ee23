"""Reads a finished run's directory for the report. Does not need torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from kcframe.errors import RunDirError
from kcframe.storage import layout as names
from kcframe.storage.layout import arm_folder
from kcframe.storage.run_dir import RunDir
from kcframe.storage.samples import read_sample
from kcframe.taxonomy import Taxonomy

Curve = list[tuple[float, float]]  # (epoch, value)


@dataclass
class Arm:
    """A student arm. figures: its part of results.json. result: its result.json. lines: of metrics.jsonl."""

    name: str
    figures: dict[str, Any]
    result: dict[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)

    def of_steps(self, reading: str, place: int | None = None) -> Curve:
        """A value of the step lines, or its entry `place` (a vertical's), by epoch."""
        return self._curve("step", lambda line: _part(line.get(reading), place))

    def of_evaluations(self, figure: str, vertical: str | None = None) -> Curve:
        """A figure of the evaluations, or of one vertical in them, by epoch."""
        if vertical is None:
            return self._curve("evaluation", lambda line: line.get(figure))
        return self._curve("evaluation", lambda line: line["per_vertical"].get(vertical, {}).get(figure))

    def _curve(self, kind: str, value) -> Curve:
        points = [(line["epoch"], value(line)) for line in self.lines if line["kind"] == kind]
        return [(epoch, y) for epoch, y in points if y is not None]


@dataclass
class Sample:
    """A test image with its labels. picture: None if its file is gone or damaged. guesses: arm -> its most
    probable classes as (class, probability)."""

    picture: Image.Image | None
    name: str
    labels: list[str]
    guesses: dict[str, list[tuple[str, float]]]


@dataclass
class Record:
    """A finished run."""

    results: dict[str, Any]
    taxonomy: Taxonomy
    arms: list[Arm]
    samples: list[Sample]
    recipe: str
    versions: dict[str, str]
    data: dict[str, Any]

    @property
    def best(self) -> Arm:
        """The arm with the highest mpvap."""
        return max(self.arms, key=lambda arm: -1.0 if (m := arm.figures["mpvap"]) is None else m)

    @property
    def baseline(self) -> Arm | None:
        return next((arm for arm in self.arms if arm.name == self.results["baseline"]), None)

    def teachers_level(self, figure: str, vertical: str | None = None) -> float | None:
        """A figure of all specialists together, or of one vertical's specialist; None without specialists."""
        specialists = self.results["specialists"]
        if specialists is None:
            return None
        return specialists[figure] if vertical is None else specialists["per_vertical"][vertical][figure]


def read_record(run_dir: RunDir) -> Record:
    """Reads a run directory. Raises RunDirError if the run is not finished or a file is damaged."""
    if not run_dir.exists(names.RESULTS):
        raise RunDirError(
            f"{run_dir}: no {names.RESULTS}: not a run directory, or the run is not finished "
            "(give its `kcframe run` command again to finish it)"
        )
    results = run_dir.read_json(names.RESULTS)
    arms = []
    for name, figures in results["arms"].items():
        folder = arm_folder(name)
        lines = run_dir.read(f"{folder}/{names.METRICS}").decode().splitlines()
        try:
            parsed = [json.loads(line) for line in lines]
        except ValueError as error:
            raise RunDirError(f"{run_dir.shown(folder)}/{names.METRICS}: damaged ({error})") from None
        arms.append(Arm(name, figures, run_dir.read_json(f"{folder}/{names.RESULT}"), parsed))
    return Record(
        results=results,
        taxonomy=Taxonomy.from_json(run_dir.read(names.TAXONOMY).decode()),
        arms=arms,
        samples=_samples(run_dir, arms),
        recipe=run_dir.read(names.RECIPE).decode(),
        versions=run_dir.read_json(names.VERSIONS),
        data=run_dir.read_json(names.DATA),
    )


def _samples(run_dir: RunDir, arms: list[Arm]) -> list[Sample]:
    listed = run_dir.read_json(names.SAMPLES) if run_dir.exists(names.SAMPLES) else []
    guesses: list[dict[str, list[tuple[str, float]]]] = [{} for _ in listed]
    for arm in arms:
        # Match by image: an arm that was evaluated with other samples has no guesses for these.
        tops = {sample["image"]: sample["top"] for sample in arm.result["samples"]}
        for row, by_arm in zip(listed, guesses, strict=True):
            if row["image"] in tops:
                by_arm[arm.name] = [(top["class"], top["probability"]) for top in tops[row["image"]]]
    return [
        Sample(read_sample(run_dir, number), row["name"], row["labels"], by_arm)
        for number, (row, by_arm) in enumerate(zip(listed, guesses, strict=True))
    ]


def _part(reading: Any, place: int | None) -> float | None:
    if reading is None or place is None:
        return reading
    return reading[place] if place < len(reading) else None
