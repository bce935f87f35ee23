"""The results as tables for a terminal."""

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
    """figure -> heading: COLUMNS, and mpvap of each subset of `ImageSet.told_apart`."""
    parts = next(iter(results["arms"].values())).get("apart", {})
    return COLUMNS | {APART + part: f"of {part}" for part in parts}


def figure_of(row: dict[str, Any], figure: str) -> float | None:
    """The figure of an arm for one of the columns."""
    if figure.startswith(APART):
        return row.get("apart", {}).get(figure.removeprefix(APART))
    return row.get(figure)


def results_tables(runs: Sequence[dict[str, Any]], markdown: bool = False) -> list[Table]:
    """A table of arms by figures and, if the data reports subsets of images, one of arms by subsets.

    One run: its figures. Several runs: mean ± standard deviation over them.
    """
    first = runs[0]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    many = f", mean ± standard deviation over seeds {seeds}" if len(runs) > 1 else f", seed {seeds}"
    title = f"{first['name']}{many} (percent)"
    rows = {name: [run["arms"][name] for run in runs] for name in first["arms"]}
    if first["specialists"]:
        rows["specialists"] = [run["specialists"] for run in runs]
    tables = [_arms_by(title, rows, COLUMNS, markdown)]
    # One table with all columns would be too wide for a terminal.
    if parts := {figure: text for figure, text in columns_of(first).items() if figure not in COLUMNS}:
        tables.append(_arms_by("mpvap", rows, parts, markdown))
    return tables


def _arms_by(
    title: str, rows: Mapping[str, list[dict[str, Any]]], columns: Mapping[str, str], markdown: bool
) -> Table:
    table = Table(title=escape(title), title_justify="left", box=box.MARKDOWN)
    if not markdown:
        # For 80 columns: rich cuts off text that does not fit.
        table.box, table.padding, table.pad_edge = box.SIMPLE_HEAD, (0, 1, 0, 0), False
        if any(len(arm_runs) > 1 for arm_runs in rows.values()):
            columns = {f: text.replace(" ", "\n") if f in COLUMNS else text for f, text in columns.items()}
    # The names of the arms must stay complete: the other columns become narrower first.
    table.add_column("", overflow="fold", min_width=min(32, max(map(len, rows))))
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for name, arm_runs in rows.items():
        cells = (cell(figure, [figure_of(row, figure) for row in arm_runs]) for figure in columns)
        table.add_row(escape(name), *cells)
    return table


def result_rows(results: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(name, text for each column) of one run's arms and, if it has them, of its specialists."""
    rows = results["arms"] | ({"specialists": results["specialists"]} if results["specialists"] else {})
    columns = columns_of(results)
    return [(name, [cell(key, [figure_of(row, key)]) for key in columns]) for name, row in rows.items()]


def vertical_table(results: dict[str, Any], retained: dict[str, float | None] | None = None) -> Table:
    """Average precision by vertical of the baseline, the best arm and the specialists; the report has all.

    retained: vertical -> AP of the best arm / AP of its specialist, in percent; for an extra column.
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
    """A figure of one run, or its mean ± standard deviation over several runs, as text; "-" for null."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    if figure == "parameters":
        return f"{known[0] / 1e6:.2f}M"
    if len(known) == 1:
        return f"{known[0]:.1f}"
    # Far below the baseline, tenths are noise and do not fit into the column.
    digits = 0 if figure == "gap_closed" and abs(mean(known)) >= 100 else 1
    return f"{mean(known):.{digits}f}±{stdev(known):.{digits}f}"
