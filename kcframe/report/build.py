"""Writes report.html: one self-contained page about a finished run. Reads the run directory only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from kcframe.errors import RunDirError, did_you_mean
from kcframe.report import figures
from kcframe.report.findings import confusions, findings
from kcframe.report.page import render, thumbnail
from kcframe.report.record import Arm, Record, Sample, read_record
from kcframe.report.table import columns_of, result_rows
from kcframe.storage.layout import REPORT
from kcframe.storage.run_dir import RunDir

MAX_CONFUSION = 24  # most verticals for which the confusion matrix is shown: a larger one is not legible


def build_report(run_dir: RunDir) -> str:
    """Writes report.html and returns its URL. The same run directory gives the same bytes.

    Raises RunDirError if the run is not finished or a file in it is damaged.
    """
    record = read_record(run_dir)
    style = figures.looks(record)
    page = render(
        "report.html",
        record=record,
        style=style,
        findings=findings(record),
        rows=result_rows(record.results),
        columns=columns_of(record.results),
        drawn=draw_all(record),
        compared=_compared(record),
        confusion=[_confusion(arm, record) for arm in _compared(record)],
        samples=[
            _card(sample, sample.picture, record) for sample in record.samples if sample.picture is not None
        ],
        damaged=[sample.name for sample in record.samples if sample.picture is None],
        verticals=[
            (name, size, record.arms[0].figures["per_vertical"][name]["images"])
            for name, size in zip(record.taxonomy.verticals, record.taxonomy.sizes, strict=True)
        ],
    )
    run_dir.write(REPORT, page)
    return run_dir.shown(REPORT)


def write_figures(run_dir: RunDir, folder: Path, arms: Sequence[str] = ()) -> list[Path]:
    """Writes each figure of the report as an SVG file; returns the files.

    arms: names of the arms to draw; empty: all. Raises RunDirError for an unknown name.
    """
    record = read_record(run_dir)
    arm_names = [arm.name for arm in record.arms]
    for name in arms:
        if name not in arm_names:
            raise RunDirError(f"{run_dir}: no arm '{name}'; {did_you_mean(name, arm_names)}")
    if arms:
        record = replace(record, arms=[arm for arm in record.arms if arm.name in arms])
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, svg in draw_all(record, legend=True).items():
        if svg is not None:
            file = folder / f"{name}.svg"
            file.write_text(figures.standalone(svg))
            written.append(file)
    return written


def draw_all(record: Record, legend: bool = False) -> dict[str, str | None]:
    """Name -> SVG of each figure; None if the run has no data for it. legend: draw a legend in each."""
    style = figures.looks(record)
    return {
        "overview": figures.draw_overview(record, style),
        "learning": figures.draw_learning(record, style, legend),
        "loss": figures.draw_loss(record, style, legend),
        "gamma": figures.draw_gamma(record, style, legend),
    }


def _compared(record: Record) -> list[Arm]:
    """The best arm and the baseline, for parts of the page in which all arms would be too many."""
    arms = [record.best]
    if record.baseline is not None and record.baseline is not record.best:
        arms.append(record.baseline)
    return arms


def _confusion(arm: Arm, record: Record) -> dict[str, Any]:
    counts = arm.result["confusion"]
    shares = [[100 * count / sum(row) if sum(row) else None for count in row] for row in counts]
    return {
        "arm": arm.name,
        "words": confusions(arm, record.taxonomy.verticals),
        "shares": shares if 1 < len(shares) <= MAX_CONFUSION else [],
    }


def _card(sample: Sample, picture: Image.Image, record: Record) -> dict[str, Any]:
    true = set(sample.labels)
    guesses = []
    for arm in _compared(record):
        top = sample.guesses.get(arm.name, [])[:3]
        guesses.append((arm.name, [(name, 100 * share, name in true) for name, share in top]))
    return {
        "picture": thumbnail(picture),
        "name": sample.name,
        "labels": sample.labels,
        "guesses": guesses,
    }
