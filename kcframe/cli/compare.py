"""`kcframe compare`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from kcframe.errors import RunDirError
from kcframe.storage.layout import RESULTS
from kcframe.storage.run_dir import RunDir


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
