"""`kcframe evaluate`: measure a finished run's students on other pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kcframe.cli.options import DEVICE, JSON, PLUGIN, SET, STUDENT, batch_option
from kcframe.report.table import columns_of, result_rows, results_tables, vertical_table
from kcframe.storage.run_dir import RunDir
from kcframe.storage.writing import write_json, write_text

if TYPE_CHECKING:
    from kcframe.students.labelled_pictures import Pictures
    from kcframe.students.measure import Measured

UNKNOWN = 5  # unknown classes that the output names


@click.command("evaluate")
@STUDENT
@click.argument("data", metavar="[DATA]", required=False)
@SET
@click.option("--split", type=click.Choice(["train", "test"]), help="Of a recipe's data. Default: test.")
@batch_option(256)
@DEVICE
@JSON
@click.option("--html", metavar="FILE", help="Write a page with figures, too.")
@PLUGIN
def command(**given: Any) -> None:
    """Measure a run's students and specialists on other pictures, or on the run's own test pictures again.

    DATA: a recipe, whose data section is used, or a folder (any URL) with a folder of pictures a class.
    Default: the run's own recipe, whose data must be there. Without ARM all students are measured.
    """
    evaluate_run(**given)


def evaluate_run(
    run: str,
    data: str | None,
    split: str | None,
    overrides: Sequence[str],
    batch: int,
    *,
    device: str,
    json_file: str | None = None,
    html: str | None = None,
) -> None:
    """Print the run's table for other pictures, and the classes that the best arm confuses; write both to the
    given files."""
    from kcframe.engine.evaluation.evaluate import Settings
    from kcframe.run.backends.local import choose_device
    from kcframe.students.labelled_pictures import find_pictures
    from kcframe.students.load import finished_arms, load, split_arm
    from kcframe.students.measure import as_results, measure, measure_specialists

    url, arm = split_arm(run)
    run_dir = RunDir(url)
    on = choose_device(device)
    arms = [arm] if arm else list(finished_arms(run_dir))
    first = load(url, arms[0])
    pictures = find_pictures(data, split, overrides, run_dir, first.taxonomy, transform=first.transform)
    settings = Settings(batch, on)
    specialists = measure_specialists(run_dir, pictures, first.taxonomy, settings)
    measured = {}
    for name in arms:
        classifier = first.to(on) if name == first.arm else load(url, name, on)
        measured[name] = measure(classifier, pictures, specialists, settings)
    best = max(measured, key=lambda name: measured[name].evaluation.mean("ap") or 0.0)
    results = as_results(measured, specialists, run_dir, pictures.split_name)
    comparison = _Comparison(results, measured, best, pictures)
    console = Console()
    for table in results_tables([results]):
        console.print(table)
    console.print(vertical_table(results, measured[best].retention if specialists else None))
    for title, pairs in _pairs(measured[best]):
        console.print(_pair_table(title, pairs))
    for sentence in comparison.sentences():
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, comparison.as_json())
    if html is not None:
        write_text(html, _page(comparison))
        console.print(html, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class _Comparison:
    """The arms' figures on the same pictures. results: in the shape of a run's results.json."""

    results: dict[str, Any]
    measured: dict[str, Measured]
    best: str
    pictures: Pictures

    def as_json(self) -> dict[str, Any]:
        from kcframe.students.measure import details

        arms = {name: row | details(self.measured[name]) for name, row in self.results["arms"].items()}
        counts = {"data": self.pictures.name, "images": len(self.pictures.split)}
        unknown = {
            "images_without_known_class": self.pictures.num_left_out,
            "unknown_classes": list(self.pictures.unknown),
        }
        return {**self.results, "arms": arms, **counts, **unknown}

    def sentences(self) -> list[str]:
        """Which pictures were measured, and how well the best arm's probabilities are calibrated."""
        left = self.pictures.num_left_out
        about_pictures = f"{len(self.pictures.split):,} pictures of {self.pictures.name}"
        if left:
            about_pictures += f"; {left:,} more have no class that the student knows"
        if self.pictures.unknown:
            named = ", ".join(self.pictures.unknown[:UNKNOWN])
            more = len(self.pictures.unknown) - UNKNOWN
            about_pictures += f" ({named}{f' and {more:,} other classes' if more > 0 else ''})"
        best = self.measured[self.best]
        bad = best.evaluation.bad
        if bad:
            about_pictures += f"; {len(bad):,} of them cannot be used, the first: {next(iter(bad.values()))}"
        return [
            about_pictures,
            f"{self.best}: expected calibration error {best.calibration.error:.1f} percent; "
            f"{len(self.pictures.split) / best.seconds:,.0f} images/s with loading and figures, "
            f"{best.network_images_per_second:,.0f} images/s in the network alone",
        ]


def _pairs(measured: Measured) -> list[tuple[str, list[tuple[str, str, int]]]]:
    return [("within a vertical", measured.within), ("across verticals", measured.across)]


def _pair_table(title: str, pairs: list[tuple[str, str, int]]) -> Table:
    table = Table(title=f"most confused {title}", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("true class", "taken for", "images"):
        table.add_column(heading, justify="right" if heading == "images" else "left", overflow="fold")
    for true, taken, count in pairs:
        table.add_row(Text(true), Text(taken), f"{count:,}")
    return table


def _page(comparison: _Comparison) -> str:
    from kcframe.report.figures import draw_reliability
    from kcframe.report.page import render

    best = comparison.measured[comparison.best]
    teachers = comparison.results["specialists"]
    verticals = [
        (name, row["images"], row["ap"], _ap(teachers, name), best.retention[name])
        for name, row in best.evaluation.per_vertical.items()
    ]
    return render(
        "evaluation.html",
        name=comparison.results["name"],
        best=comparison.best,
        columns=columns_of(comparison.results),
        rows=result_rows(comparison.results),
        said=comparison.sentences(),
        verticals=verticals,
        has_teachers=bool(teachers),
        reliability=draw_reliability(best.calibration.bins),
        calibration_error=best.calibration.error,
        pairs=_pairs(best),
    )


def _ap(teachers: dict[str, Any] | None, vertical: str) -> float | None:
    return None if teachers is None else teachers["per_vertical"].get(vertical, {}).get("ap")
