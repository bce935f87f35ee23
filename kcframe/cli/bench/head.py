"""`kcframe bench head`: compare a step of head, pacing and objective with its bare matrix products and with
the dense way. `head_ways` measures; this file prints the tables."""

from __future__ import annotations

import os
from statistics import median
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from kcframe.cli.bench.figures import spread, write_json
from kcframe.cli.options import DEVICE, DTYPE, JSON, count_option


@click.command("head")
@count_option("--classes", 100_000, "N.")
@count_option("--verticals", 20, "M, of uneven sizes.")
@count_option("--features", 1024, "D, of the backbone.")
@count_option("--s1", 4096, "Units of the first layer.")
@count_option("--s2", 512, "Units of the second layer.")
@count_option("--kept", 100, "K.")
@count_option("--batch", 256, "Images a step.")
@click.option("--expander", default="fc-sc", show_default=True, metavar="NAME", help="Any with s1 and s2.")
@DEVICE
@DTYPE
@count_option("--rounds", 7, "Turns of each way.")
@click.option(
    "--trained",
    default=60,
    show_default=True,
    type=click.IntRange(0),
    help="Steps of training before the gradient filter is measured; 0: leave it out.",
)
@click.option("--filter", "filter_error", default=1e-3, show_default=True, help="train.gradient_filter.")
@click.option("--scaling", is_flag=True, help="Also: time and memory for N from 12,500 to 200,000.")
@click.option("--optimizers", is_flag=True, help="Also: a step of AdamW, in each of torch's ways.")
@JSON
def command(**given: Any) -> None:
    """A step of head, pacing and objective, over its bare matrix products and the dense way."""
    # This must be set before torch is imported. Otherwise torch's profiler, which counts the memory, prints
    # messages to the terminal.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    bench_head(**given)


def bench_head(
    rounds: int,
    trained: int,
    filter_error: float,
    scaling: bool,
    optimizers: bool,
    *,
    device: str,
    dtype: str,
    json_file: str | None = None,
    **sizes: Any,
) -> None:
    """Measure, print tables, and write the figures. sizes: the other fields of `Sizes`."""
    import torch

    from kcframe.cli.bench.head_ways import measure_optimizers, measure_scaling, measure_step
    from kcframe.cli.bench.problem import Bench, Sizes
    from kcframe.run.backends.local import choose_device

    console = Console()
    bench = Bench(Sizes(**sizes, device=choose_device(device), dtype=getattr(torch, dtype)))
    figures = measure_step(bench, rounds, trained, filter_error)
    console.print(_table(figures))
    if scaling:
        figures["scaling"] = measure_scaling(bench.sizes, rounds)
        console.print(_scaling_table(figures["scaling"]))
    if optimizers:
        figures["optimizers"] = measure_optimizers(bench, rounds)
        for name, over in figures["optimizers"].items():
            console.print(f"AdamW, {name}: {spread(over, 2)} of a step's matrix products", highlight=False)
    write_json(figures, json_file)


def _table(figures: dict[str, Any]) -> Table:
    s = figures["sizes"]
    title = (
        f"a step of the head: {s['expander']}, N = {s['classes']:,}, M = {s['verticals']}, s1 = {s['s1']}, "
        f"s2 = {s['s2']}, K = {s['kept']}, batch {s['batch']}, {s['dtype']}, {figures['device']}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "seconds", "over its products", "extra memory"):
        table.add_column(column, justify="left" if not column else "right")
    for row in figures["rows"]:
        memory = "" if row["extra_bytes"] is None else f"{row['extra_bytes'] / 2**20:,.0f} MiB"
        seconds = f"{median(row['seconds']):.3f}"
        table.add_row(row["way"], seconds, spread(row["over_matmuls"], 2), memory)
    if filtered := figures["gradient_filter"]:
        after = f"after {filtered['trained_steps']} steps:"
        table.add_row(f"{after} this head", "", spread(filtered["exact_over_matmuls"], 2), "")
        table.add_row(
            f"{after} filter {filtered['gradient_filter']:g}", "", spread(filtered["over_matmuls"], 2), ""
        )
        errors = f"{filtered['classifier_error']:.1e} and {filtered['largest_error']:.1e}"
        table.add_row(
            "  its largest relative error in a classifier's and in any matrix's gradient", "", errors
        )
    return table


def _scaling_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="this head by N", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("N", "largest vertical", "seconds", "extra memory", "gradients"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row['classes']:,}",
            f"{row['largest_vertical']:,}",
            spread(row["seconds"]),
            f"{row['extra_bytes'] / 2**20:,.0f} MiB",
            f"{row['gradient_bytes'] / 2**20:,.0f} MiB",
        )
    return table
