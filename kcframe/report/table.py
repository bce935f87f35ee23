"""The results as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

COLUMNS = {
    "mpvap": "mpvap",
    "top1": "top-1",
    "top5": "top-5",
    "routed_mpvap": "routed mpvap",
    "gap_closed": "gap closed",
    "parameters": "params",
}


APART = "mpvap, "


def columns_of(results: dict[str, Any]) -> dict[str, str]:
    """COLUMNS, and mpvap of images that are told apart: figure -> heading."""
    parts = next(iter(results["arms"].values())).get("apart", {})
    return COLUMNS | {APART + part: f"of {part}" for part in parts}


def figure_of(row: dict[str, Any], figure: str) -> float | None:
    """An arm's figure, of those that have columns."""
    if figure.startswith(APART):
        return row.get("apart", {}).get(figure.removeprefix(APART))
    return row.get(figure)


def results_tables(runs: Sequence[dict[str, Any]], markdown: bool = False) -> list[Table]:
    """Arms by figures, and, where images are told apart, arms by those. One run: its figures; several: mean ±
    standard deviation over them."""
    first = runs[0]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    many = f", mean ± standard deviation over seeds {seeds}" if len(runs) > 1 else f", seed {seeds}"
    title = f"{first['name']}{many} (percent)"
    rows = {name: [run["arms"][name] for run in runs] for name in first["arms"]}
    if first["specialists"]:
        rows["specialists"] = [run["specialists"] for run in runs]
    tables = [_arms_by(title, rows, COLUMNS, markdown)]
    # Both together are too wide for a terminal.
    if parts := {figure: text for figure, text in columns_of(first).items() if figure not in COLUMNS}:
        tables.append(_arms_by("mpvap", rows, parts, markdown))
    return tables


def _arms_by(
    title: str, rows: Mapping[str, list[dict[str, Any]]], columns: Mapping[str, str], markdown: bool
) -> Table:
    table = Table(title=escape(title), title_justify="left", box=box.MARKDOWN)
    if not markdown:
        # For 80 columns; what does not fit rich leaves out.
        table.box, table.padding, table.pad_edge = box.SIMPLE_HEAD, (0, 1, 0, 0), False
        if any(len(found) > 1 for found in rows.values()):
            columns = {f: text.replace(" ", "\n") if f in COLUMNS else text for f, text in columns.items()}
    # Arms must be told apart: their column gives way last.
    table.add_column("", overflow="fold", min_width=min(32, max(map(len, rows))))
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for name, found in rows.items():
        cells = (cell(figure, [figure_of(row, figure) for row in found]) for figure in columns)
        table.add_row(escape(name), *cells)
    return table


def result_rows(results: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """One run's arms, and its specialists if it has them: (name, a text for each of its columns)."""
    found = results["arms"] | ({"specialists": results["specialists"]} if results["specialists"] else {})
    columns = columns_of(results)
    return [(name, [cell(key, [figure_of(row, key)]) for key in columns]) for name, row in found.items()]


def vertical_table(results: dict[str, Any], retained: dict[str, float | None] | None = None) -> Table:
    """Average precision by vertical: the baseline, the best arm and the specialists; the report has all.

    retained: the best arm's over its specialist's, by vertical, for a column of its own.
    """
    arms = results["arms"]
    best = max(arms, key=lambda name: arms[name]["mpvap"] or 0.0)
    shown = dict.fromkeys(name for name in (results["baseline"], best) if name)
    columns = {name: arms[name]["per_vertical"] for name in shown}
    if results["specialists"]:
        columns["specialists"] = results["specialists"]["per_vertical"]
    table = Table(title="average precision by vertical", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in columns:
        table.add_column(escape(name), justify="right")
    if retained is not None:
        table.add_column("retained", justify="right")
    for vertical in next(iter(columns.values())):
        cells = [cell("ap", [rows.get(vertical, {}).get("ap")]) for rows in columns.values()]
        if retained is not None:
            cells.append(cell("ap", [retained[vertical]]))
        table.add_row(escape(vertical), *cells)
    return table


def cell(figure: str, values: Sequence[float | None]) -> str:
    """A figure of one run, or its mean ± standard deviation over several, as text; "-" for null."""
    if any(value is None for value in values):
        return "-"
    if figure == "parameters":
        return f"{values[0] / 1e6:.2f}M"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    # Far below the baseline tenths are noise, and would not fit.
    digits = 0 if figure == "gap_closed" and abs(mean(values)) >= 100 else 1
    return f"{mean(values):.{digits}f}±{stdev(values):.{digits}f}"
