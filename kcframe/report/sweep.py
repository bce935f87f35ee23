"""The results of a sweep as a table, and as a figure: the metric by the values of each field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from kcframe.report.figures import BASELINE, COLOURS, SETTINGS, logarithmic, standalone, svg_of

SHOWN = 10  # number of trials in the table
DECADES = 10.0  # a field whose values span more than this factor gets a logarithmic axis
COLUMNS = 3

Row = dict[str, Any]  # a trial of sweep.json: name, values, mpvap, epochs, state


def ranked(trials: Sequence[Row]) -> list[Row]:
    """Sorted from best to worst: finished trials by mpvap, then trials stopped early, then others."""

    def place(trial: Row) -> tuple[int, float]:
        order = {"finished": 0, "stopped early": 1}.get(trial["state"], 2)
        return order, -(trial["mpvap"] if trial["mpvap"] is not None else -1.0)

    return sorted(trials, key=place)


def sweep_table(trials: Sequence[Row]) -> Table:
    """The best trials, with their values."""
    fields = list(trials[0]["values"])
    title = f"the best {min(SHOWN, len(trials))} of {len(trials)} trials (mpvap on the validation split)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    short = [field.rsplit(".", 1)[-1] for field in fields]
    shown = short if len(set(short)) == len(short) else fields
    for heading in ("trial", "mpvap", "epochs", *shown, ""):
        left = heading in ("trial", "")
        # Break long names between words.
        words = heading.split("_")
        longest = max(map(len, words))
        table.add_column(
            " ".join(words), justify="left" if left else "right", no_wrap=left, min_width=longest
        )
    for trial in ranked(trials)[:SHOWN]:
        mpvap = "-" if trial["mpvap"] is None else f"{trial['mpvap']:.1f}"
        values = [_text(trial["values"][field]) for field in fields]
        state = "" if trial["state"] == "finished" else trial["state"]
        table.add_row(trial["name"].rpartition("_")[2], mpvap, str(trial["epochs"]), *values, state)
    return table


def draw_sweep(trials: Sequence[Row]) -> str:
    """An SVG file: mpvap by value, one panel per field. Grey: stopped early. Ringed: the best trial."""
    fields = list(trials[0]["values"])
    columns = min(COLUMNS, len(fields))
    rows = -(-len(fields) // columns)
    measured = [trial for trial in trials if trial["mpvap"] is not None]
    best = ranked(trials)[0]
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(3.2 * columns + 0.4, 2.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, field in zip(grid.flat, fields, strict=False):
            _panel(axes, field, measured, best)
        for axes in grid.flat[len(fields) :]:
            axes.set_visible(False)
        for row in range(rows):
            grid[row, 0].set_ylabel("mpvap, validation")
        return standalone(svg_of(figure))


def _panel(axes: Axes, field: str, measured: Sequence[Row], best: Row) -> None:
    values = [trial["values"][field] for trial in measured]
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if numeric:
        places = dict(zip(map(str, values), values, strict=True))
        if values and min(values) > 0 and max(values) > DECADES * min(values):
            logarithmic(axes.xaxis)
    else:
        names = sorted(set(map(str, values)))
        places = {name: place for place, name in enumerate(names)}
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    for trial in measured:
        finished = trial["state"] == "finished"
        x = places[str(trial["values"][field])]
        axes.plot(x, trial["mpvap"], "o", color=COLOURS[0] if finished else BASELINE, markersize=5)
        if trial is best:
            axes.plot(x, trial["mpvap"], "o", color=COLOURS[1], markersize=11, fillstyle="none")
    axes.set_xlabel(field)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
