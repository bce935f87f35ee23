"""`kcframe run`: train and measure what a recipe names."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console

from kcframe.cli.options import ADDRESS, BACKEND, PLUGIN, RECIPE, SET
from kcframe.errors import Interrupted, RecipeError, did_you_mean
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import Recipe
from kcframe.registry import installed
from kcframe.storage.layout import REPORT, RESULT, arm_folder
from kcframe.storage.run_dir import RunDir


@click.command("run")
@RECIPE
@SET
@PLUGIN
@click.option("--run-dir", metavar="URL", help="Where the run is kept (any fsspec URL). Default: runs/NAME.")
@click.option("--arm", "arms", multiple=True, metavar="NAME", help="Only this arm. May be repeated.")
@BACKEND
@ADDRESS
@click.option("--workers", metavar="N", help="Workers of a student; with it the backend is ray.")
@click.option(
    "--log",
    "trackers",
    multiple=True,
    metavar="CALLBACK",
    help="Watch it elsewhere too, e.g. --log tensorboard; in place of the recipe's callbacks.",
)
def command(
    recipe: str,
    overrides: tuple[str, ...],
    run_dir: str | None,
    arms: tuple[str, ...],
    trackers: tuple[str, ...],
    *,
    backend: str | None,
    address: str | None,
    workers: str | None,
) -> None:
    """Train and measure everything a recipe names; go on where an earlier run stopped."""
    callbacks = [f"callbacks=[{', '.join(trackers)}]"] if trackers else []
    all_overrides = (*overrides, *execution_overrides(backend, address, workers), *callbacks)
    run_recipe(recipe, all_overrides, run_dir, arms)


def run_recipe(
    source: str, overrides: Sequence[str], run_dir_url: str | None, arms: Sequence[str] = ()
) -> None:
    """Run a recipe to its end. Print its tables, and the run directory as the last line.

    arms: names; the run trains only these, and shows them beside the arms that are finished. Empty: all arms.
    """
    recipe = load_recipe(source, installed(), overrides)
    run_dir = RunDir(run_dir_url or f"runs/{recipe.name}")
    if arms:
        recipe = with_arms(recipe, arms, run_dir)
    console = Console()
    console.print(
        f"{recipe.name}: seed {recipe.seed}, run directory {run_dir}", markup=False, highlight=False
    )
    # torch is imported only now, so that a recipe with mistakes is refused at once.
    from kcframe.cli.display import RunDisplay
    from kcframe.report.table import results_tables, vertical_table
    from kcframe.run.pipeline import run

    with stop_on_signal(console) as stop, RunDisplay(console, stop.is_set) as display:
        try:
            results = run(recipe, run_dir, display)
        except Interrupted as error:
            raise Interrupted(f"{error}. Everything is saved: give the same command again to go on") from None
    for table in (*results_tables([results]), vertical_table(results)):
        console.print(table)
    click.echo(f"report: {run_dir.shown(REPORT)}")
    click.echo(run_dir)


def with_arms(recipe: Recipe, names: Sequence[str], run_dir: RunDir) -> Recipe:
    """The recipe with the named arms, and with the finished ones, which stay in the table. RecipeError if the
    recipe has no arm of a name."""
    for name in names:
        if name not in recipe.arms:
            raise RecipeError(f"--arm: the recipe has no arm '{name}'; {did_you_mean(name, recipe.arms)}")
    chosen = {
        name: spec
        for name, spec in recipe.arms.items()
        if name in names or run_dir.exists(f"{arm_folder(name)}/{RESULT}")
    }
    baseline = recipe.baseline if recipe.baseline in chosen else None
    return recipe.model_copy(update={"arms": chosen, "baseline": baseline, "search": None})


def execution_overrides(backend: str | None, address: str | None, workers: str | None) -> list[str]:
    """--backend, --address and --workers, written as values of `--set`."""
    if backend is None and (address or workers):
        backend = "ray"
    fields = {"backend": backend, "address": address, "workers": workers}
    return [f"execution.{name}={value}" for name, value in fields.items() if value is not None]


@contextmanager
def stop_on_signal(console: Console) -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) sets the event, so that the run saves a checkpoint and ends. The second
    one ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        console.print("stopping after this step; again to stop at once", highlight=False)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
