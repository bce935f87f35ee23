"""`kcframe evaluate`: a finished student on other pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kcframe.engine.evaluation.evaluate import Settings
from kcframe.report.figures import draw_reliability
from kcframe.report.page import render
from kcframe.report.table import columns_of, result_rows, results_tables, vertical_table
from kcframe.run.backends.local import choose_device
from kcframe.storage.run_dir import RunDir
from kcframe.storage.writing import write_json, write_text
from kcframe.students.labelled_pictures import Pictures, find_pictures
from kcframe.students.load import finished_arms, load, split_arm
from kcframe.students.measure import Measured, as_results, details, measure, measure_specialists

UNKNOWN = 5  # classes that are named


@dataclass(frozen=True)
class _Found:
    """What was measured: `results` has the shape of a run's results.json."""

    results: dict[str, Any]
    measured: dict[str, Measured]
    best: str
    pictures: Pictures

    def as_json(self) -> dict[str, Any]:
        arms = {name: row | details(self.measured[name]) for name, row in self.results["arms"].items()}
        counts = {"data": self.pictures.name, "images": len(self.pictures.indices)}
        unknown = {
            "images_without_known_class": self._left_out,
            "unknown_classes": list(self.pictures.unknown),
        }
        return {**self.results, "arms": arms, **counts, **unknown}

    @property
    def _left_out(self) -> int:
        return len(self.pictures.images) - len(self.pictures.indices)

    def said(self) -> list[str]:
        """In sentences: what was measured, and how far the best arm's probabilities can be trusted."""
        left = self._left_out
        first = f"{len(self.pictures.indices):,} pictures of {self.pictures.name}"
        if left:
            first += f"; {left:,} more have no class that the student knows"
        if self.pictures.unknown:
            named = ", ".join(self.pictures.unknown[:UNKNOWN])
            more = len(self.pictures.unknown) - UNKNOWN
            first += f" ({named}{f' and {more:,} other classes' if more > 0 else ''})"
        best = self.measured[self.best]
        bad = best.evaluation.bad
        if bad:
            first += f"; {len(bad):,} of them cannot be used, the first: {next(iter(bad.values()))}"
        return [
            first,
            f"{self.best}: expected calibration error {best.calibration.error:.1f} percent; "
            f"{len(self.pictures.indices) / best.seconds:,.0f} images/s with loading and figures, "
            f"{best.network_images_per_second:,.0f} images/s in the network alone",
        ]


def evaluate_run(
    run: str,
    data: str | None,
    split: str | None,
    overrides: Sequence[str],
    batch_size: int,
    device: str,
    json_file: str | None,
    html: str | None,
) -> None:
    """Print the run's table for other pictures, and what the best arm confuses; write them where wanted."""
    url, arm = split_arm(run)
    run_dir = RunDir(url)
    on = choose_device(device)
    arms = [arm] if arm else list(finished_arms(run_dir))
    first = load(url, arms[0])
    pictures = find_pictures(data, split, overrides, run_dir, first.taxonomy, first.transform)
    settings = Settings(batch_size, on, pictures.max_bad_fraction)
    specialists = measure_specialists(run_dir, pictures, first.taxonomy, settings)
    measured = {}
    for name in arms:
        classifier = first.to(on) if name == first.arm else load(url, name, on)
        measured[name] = measure(classifier, pictures, specialists, settings)
    best = max(measured, key=lambda name: measured[name].evaluation.mean("ap") or 0.0)
    found = _Found(as_results(measured, specialists, run_dir, pictures.split), measured, best, pictures)
    console = Console()
    for table in results_tables([found.results]):
        console.print(table)
    console.print(vertical_table(found.results, measured[best].retention if specialists else None))
    for title, pairs in _pairs(measured[best]):
        console.print(_pair_table(title, pairs))
    for sentence in found.said():
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, found.as_json())
    if html is not None:
        write_text(html, _page(found))
        console.print(html, markup=False, highlight=False, soft_wrap=True)


def _pairs(measured: Measured) -> list[tuple[str, list[tuple[str, str, int]]]]:
    return [("within a vertical", measured.within), ("across verticals", measured.across)]


def _pair_table(title: str, pairs: list[tuple[str, str, int]]) -> Table:
    table = Table(title=f"most confused {title}", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("true class", "taken for", "images"):
        table.add_column(heading, justify="right" if heading == "images" else "left", overflow="fold")
    for true, taken, count in pairs:
        table.add_row(Text(true), Text(taken), f"{count:,}")
    return table


def _page(found: _Found) -> str:
    best = found.measured[found.best]
    teachers = found.results["specialists"]
    verticals = [
        (name, row["images"], row["ap"], _ap(teachers, name), best.retention[name])
        for name, row in best.evaluation.per_vertical.items()
    ]
    return render(
        "evaluation.html",
        name=found.results["name"],
        best=found.best,
        columns=columns_of(found.results),
        rows=result_rows(found.results),
        said=found.said(),
        verticals=verticals,
        has_teachers=bool(teachers),
        reliability=draw_reliability(best.calibration.bins),
        calibration_error=best.calibration.error,
        pairs=_pairs(best),
    )


def _ap(teachers: dict[str, Any] | None, vertical: str) -> float | None:
    return None if teachers is None else teachers["per_vertical"].get(vertical, {}).get("ap")
