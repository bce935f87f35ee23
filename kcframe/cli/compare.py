"""`kcframe compare`: one table over several runs."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console

from kcframe.errors import RunDirError
from kcframe.storage.layout import RESULTS
from kcframe.storage.run_dir import RunDir


@click.command("compare")
@click.argument("run_dirs", metavar="RUN…", nargs=-1, required=True)
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
def command(run_dirs: tuple[str, ...], markdown: bool) -> None:
    """One table over several runs of a recipe: mean and standard deviation over their seeds."""
    compare_runs(run_dirs, markdown)


def compare_runs(urls: Sequence[str], markdown: bool) -> None:
    """Print one table over finished runs that have the same arms."""
    from kcframe.report.table import results_tables

    runs = []
    places = [RunDir(url) for url in urls]
    for run_dir in places:
        if not run_dir.exists(RESULTS):
            raise RunDirError(f"{run_dir}: no {RESULTS}: not a run directory, or the run is not finished")
        runs.append(run_dir.read_json(RESULTS))
    for place, run in zip(places, runs, strict=True):
        if list(run["arms"]) != list(runs[0]["arms"]):
            raise RunDirError(f"{place}: has other arms than {places[0]}: {', '.join(run['arms'])}")
    for table in results_tables(runs, markdown):
        Console(width=200 if markdown else None).print(table)
