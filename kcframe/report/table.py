"""The results as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from rich.table import Table

COLUMNS = {
    "mpvap": "mpvap",
    "top1": "top-1",
    "top5": "top-5",
    "routed_mpvap": "mpvap, routed",
    "gap_closed": "gap closed %",
    "parameters": "parameters",
}


def results_table(runs: Sequence[dict[str, Any]]) -> Table:
    """Arms by figures. One run: its figures; several: mean ± standard deviation over them."""
    first = runs[0]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    many = f", mean ± standard deviation over seeds {seeds}" if len(runs) > 1 else f", seed {seeds}"
    table = Table(title=f"{first['name']}{many}", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    rows = {name: [run["arms"][name] for run in runs] for name in first["arms"]}
    if first["specialists"]:
        rows["specialists, routed"] = [run["specialists"] for run in runs]
    for name, found in rows.items():
        table.add_row(name, *(_cell(figure, [row.get(figure) for row in found]) for figure in COLUMNS))
    return table


def vertical_table(results: dict[str, Any], figure: str = "ap") -> Table:
    """Verticals by arms, for one figure of one run."""
    specialists = results["specialists"]
    table = Table(title="mpvap by vertical" if figure == "ap" else figure, title_justify="left")
    table.add_column("vertical", no_wrap=True)
    columns = {name: arm["per_vertical"] for name, arm in results["arms"].items()}
    if specialists:
        columns["specialists"] = specialists["per_vertical"]
    for name in columns:
        table.add_column(name, justify="right")
    verticals = next(iter(columns.values()))
    for vertical in verticals:
        table.add_row(vertical, *(_cell(figure, [rows[vertical][figure]]) for rows in columns.values()))
    return table


def _cell(figure: str, values: Sequence[float | None]) -> str:
    if any(value is None for value in values):
        return "-"
    if figure == "parameters":
        return f"{values[0] / 1e6:.2f}M"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"
