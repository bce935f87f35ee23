"""The figures of the report, as SVG in the colours of the page, for light and dark mode.

An arm has the same colour in all figures. The colours are those of Okabe and Ito, which colour-blind people
can distinguish. After seven arms the line style changes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kcframe.report.record import Curve, Record

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#9A6FE8")
BASELINE = "#888888"
DASHES = ("", "6 2", "2 2", "8 2 2 2")
INK, FAINT = "#010203", "#040506"  # placeholders that `svg_of` replaces by the page's colours
COLUMNS = 4
MAX_PANELS = 24
MAX_POINTS = 400

SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kcframe",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.5,
}


@dataclass(frozen=True)
class Look:
    """Colour and line style of an arm. dashes: in the format of SVG's stroke-dasharray."""

    colour: str
    dashes: str

    @property
    def line(self) -> dict:
        """The look as arguments for matplotlib."""
        lengths = [float(length) for length in self.dashes.split()]
        return {"color": self.colour, "linestyle": (0, lengths) if lengths else "-"}


def looks(record: Record) -> dict[str, Look]:
    """Each arm's look; the baseline is grey."""
    supply = cycle(Look(colour, dashes) for dashes, colour in product(DASHES, COLOURS))
    baseline = record.results["baseline"]
    return {arm.name: Look(BASELINE, "") if arm.name == baseline else next(supply) for arm in record.arms}


def draw_overview(record: Record, style: Mapping[str, Look]) -> str:
    """mpvap by arm, with a faint mark for each vertical, and lines at the baseline and the specialists."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9, 0.9 + 0.32 * len(record.arms)), layout="constrained")
        axes = figure.subplots()
        axes.grid(axis="y", visible=False)
        for row, arm in enumerate(record.arms):
            colour = style[arm.name].colour
            aps = [v["ap"] for v in arm.figures["per_vertical"].values() if v["ap"] is not None]
            axes.plot(aps, [row] * len(aps), "|", color=colour, alpha=0.55, markersize=9)
            if arm.figures["mpvap"] is not None:
                axes.plot(arm.figures["mpvap"], row, "o", color=colour, markersize=8)
        top = record.teachers_level("mpvap")
        if top is not None:
            axes.axvline(top, **_level())
        if record.baseline is not None and record.baseline.figures["mpvap"] is not None:
            axes.axvline(record.baseline.figures["mpvap"], color=BASELINE, linewidth=1, linestyle="--")
        axes.set_yticks(range(len(record.arms)), [_short(arm.name, 40) for arm in record.arms])
        axes.set_ylim(len(record.arms) - 0.5, -0.5)
        axes.set_xlim(-1.5, 101.5)
        axes.set_xlabel("average precision, percent")
        return svg_of(figure)


def draw_learning(record: Record, style: Mapping[str, Look], legend: bool = False) -> str | None:
    """AP by epoch: first the mean over the verticals, then each vertical. Dashed: the teacher's level."""
    if not any(arm.of_evaluations("mpvap") for arm in record.arms):
        return None

    def mean_panel(axes: Axes) -> None:
        for arm in record.arms:
            _line(axes, arm.of_evaluations("mpvap"), style[arm.name], marker="o")
        _level_line(axes, record.teachers_level("mpvap"))

    def panel(axes: Axes, vertical: str) -> None:
        for arm in record.arms:
            _line(axes, arm.of_evaluations("ap", vertical), style[arm.name], marker="o")
        _level_line(axes, record.teachers_level("ap", vertical))

    shown = style if legend else {}
    first = ("mean (mpvap)", mean_panel)
    return _panels(record.taxonomy.verticals, panel, "AP", shown, first, limits=(0, 101))


def draw_loss(record: Record, style: Mapping[str, Look], legend: bool = False) -> str | None:
    """By epoch: the loss (dotted: the floor of a self-paced loss), and the effective rank of the features."""
    if not any(arm.of_steps("loss") for arm in record.arms):
        return None
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9, 3), layout="constrained")
        loss, rank = figure.subplots(1, 2)
        for arm in record.arms:
            look = style[arm.name]
            _line(loss, arm.of_steps("loss"), look)
            floor = [
                (line["epoch"], sum(line["floor"]))
                for line in arm.lines
                if line["kind"] == "step" and line.get("floor")
            ]
            _line(loss, floor, Look(look.colour, "1 2"))
            _line(rank, arm.of_evaluations("effective_rank"), look, marker="o")
        logarithmic(loss.yaxis)
        logarithmic(rank.yaxis)
        loss.set_title("training loss (dotted: the floor under a self-paced loss)")
        rank.set_title("effective rank of the shared features")
        for axes in (loss, rank):
            axes.set_xlabel("epoch")
            axes.set_xlim(loss.get_xlim())  # the rank may have been measured only once, at the end
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return svg_of(figure, {arm.name: style[arm.name] for arm in record.arms} if legend else {})


def draw_gamma(record: Record, style: Mapping[str, Look], legend: bool = False) -> str | None:
    """gamma / sqrt(N_v) by epoch, one panel per vertical; None if no arm has a gamma."""
    paced = [arm for arm in record.arms if arm.of_steps("gamma", 0)]
    if not paced:
        return None
    sizes = dict(zip(record.taxonomy.verticals, record.taxonomy.sizes, strict=True))

    def panel(axes: Axes, vertical: str) -> None:
        place = record.taxonomy.verticals.index(vertical)
        for arm in paced:
            curve = [(epoch, g / sizes[vertical] ** 0.5) for epoch, g in arm.of_steps("gamma", place)]
            _line(axes, [(epoch, y) for epoch, y in curve if y > 0], style[arm.name])
        logarithmic(axes.yaxis)

    shown = {arm.name: style[arm.name] for arm in paced} if legend else {}
    return _panels(record.taxonomy.verticals, panel, "γ / √N", shown)


def draw_reliability(bins: Sequence[tuple[float, float, int]]) -> str:
    """A reliability diagram: share of correct most probable classes by probability, and number of images.

    bins: (mean probability, share right, images), in 0..1.
    """
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(4.5, 4.2), layout="constrained")
        right, count = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        right.plot([0, 100], [0, 100], **_level())
        right.plot(
            [100 * p for p, _, _ in bins], [100 * share for _, share, _ in bins], "-o", color=COLOURS[0]
        )
        right.set_ylabel("right, percent of images")
        right.set_ylim(-2, 102)
        count.bar([100 * p for p, _, _ in bins], [n for _, _, n in bins], width=4, color=COLOURS[0])
        count.set_ylabel("images")
        count.set_xlabel("probability of the most probable class, percent")
        count.set_xlim(-2, 102)
        return svg_of(figure)


def _panels(
    verticals: Sequence[str],
    draw: Callable[[Axes, str], None],
    label: str,
    legend: Mapping[str, Look],
    first: tuple[str, Callable[[Axes], None]] | None = None,
    *,
    limits: tuple[float, float] | None = None,
) -> str:
    """The panel `first` if there is one, and one panel per vertical; at most MAX_PANELS, with equal axes."""
    drawn: list[tuple[str, Callable[[Axes], None]]] = [first] if first else []
    for vertical in verticals[: MAX_PANELS - len(drawn)]:
        drawn.append((vertical, partial(_draw_vertical, draw, vertical)))
    columns = min(COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9 * max(columns, 2) / COLUMNS, 0.5 + 1.75 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (title, panel) in zip(grid.flat, drawn, strict=False):
            panel(axes)
            axes.set_title(_short(title, 28), fontweight="bold" if first and title == first[0] else "normal")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if limits:
                axes.set_ylim(*limits)
        for axes in grid.flat[len(drawn) :]:
            axes.set_visible(False)
        for column in range(columns):
            last = max(place for place in range(column, len(drawn), columns))
            grid.flat[last].set_xlabel("epoch")
            grid.flat[last].xaxis.set_tick_params(labelbottom=True)
        for row in range(rows):
            grid[row, 0].set_ylabel(label)
        return svg_of(figure, legend)


def _draw_vertical(draw: Callable[[Axes, str], None], vertical: str, axes: Axes) -> None:
    draw(axes, vertical)


def _line(axes: Axes, curve: Curve, look: Look, marker: str = "") -> None:
    step = max(1, -(-len(curve) // MAX_POINTS))
    # Count from the end, so that the last point is always shown.
    some = curve[::-1][::step][::-1]
    if some:
        axes.plot(*zip(*some, strict=True), marker=marker, markersize=2.5, **look.line)


def _level() -> dict:
    return {"color": INK, "linewidth": 1, "linestyle": "--"}


def _level_line(axes: Axes, level: float | None) -> None:
    if level is not None:
        axes.axhline(level, **_level())


def logarithmic(axis: Axis) -> None:
    """Makes an axis logarithmic, with plain numbers, also between decades if the range is small."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]

    def between_decades(value: float, place: float) -> str:
        low, high = axis.get_view_interval()
        shown = "123456789" if high < 5 * low else "25" if high < 200 * low else ""
        return f"{value:g}" if f"{value:e}"[0] in shown else ""

    axis.set_major_formatter(lambda value, place: f"{value:g}")
    axis.set_minor_formatter(between_decades)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def svg_of(figure: Figure, legend: Mapping[str, Look] | None = None) -> str:
    """The figure as SVG for a page, with the page's colours and font; without ids, which must be unique.

    legend: the arms to name below the figure, which becomes higher for them.
    """
    if legend:
        lines = [Line2D([], [], **look.line) for look in legend.values()]
        columns = 3
        figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(lines) // columns))
        figure.legend(
            lines, list(legend), loc="outside lower center", ncols=columns, frameon=False, handlelength=3
        )
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The browser has glyphs that matplotlib's font does not have.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font: ([0-9.]+px|bold [0-9.]+px|[0-9]+ [0-9.]+px) [^;\"]*", r"font: \1 var(--font)", text)
    return text.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")


def standalone(svg: str) -> str:
    """The figure for a separate file, in colours that are legible on white and on black."""
    colours = {"var(--ink)": "#777777", "var(--faint)": "#99999955", "var(--font)": "sans-serif"}
    for variable, value in colours.items():
        svg = svg.replace(variable, value)
    return svg
