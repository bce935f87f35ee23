"""`kcframe run`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console

from kcframe.errors import Interrupted, RecipeError, did_you_mean
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import Recipe
from kcframe.registry import installed
from kcframe.storage.layout import REPORT, RESULT, arm_folder
from kcframe.storage.run_dir import RunDir


def run_recipe(
    source: str, overrides: Sequence[str], run_dir_url: str | None, arms: Sequence[str] = ()
) -> None:
    """Run a recipe to its end, print its table, and as the last line the run directory. arms: these alone,
    beside those that are finished."""
    recipe = load_recipe(source, installed(), overrides)
    run_dir = RunDir(run_dir_url or f"runs/{recipe.name}")
    if arms:
        recipe = with_arms(recipe, arms, run_dir)
    console = Console()
    console.print(
        f"{recipe.name}: seed {recipe.seed}, run directory {run_dir}", markup=False, highlight=False
    )
    # torch comes in only now: a recipe with mistakes is refused at once.
    from kcframe.cli.display import RunDisplay
    from kcframe.report.table import results_tables, vertical_table
    from kcframe.run.pipeline import run

    with stop_on_signal(console) as stop, RunDisplay(console) as display:
        try:
            results = run(recipe, run_dir, display, display.say, stop.is_set)
        except Interrupted as error:
            raise Interrupted(f"{error}. Everything is saved: give the same command again to go on") from None
    for table in (*results_tables([results]), vertical_table(results)):
        console.print(table)
    click.echo(f"report: {run_dir.shown(REPORT)}")
    click.echo(run_dir)


def with_arms(recipe: Recipe, names: Sequence[str], run_dir: RunDir) -> Recipe:
    """The recipe with some of its arms, and those that are finished, which stay in the table. RecipeError if
    it has no arm of a name."""
    for name in names:
        if name not in recipe.arms:
            raise RecipeError(f"--arm: the recipe has no arm '{name}'; {did_you_mean(name, recipe.arms)}")
    kept = {
        name: spec
        for name, spec in recipe.arms.items()
        if name in names or run_dir.exists(f"{arm_folder(name)}/{RESULT}")
    }
    baseline = recipe.baseline if recipe.baseline in kept else None
    return recipe.model_copy(update={"arms": kept, "baseline": baseline, "search": None})


def execution_overrides(backend: str | None, address: str | None, workers: str | None) -> list[str]:
    """The command line's short forms as `--set` would have them."""
    if backend is None and (address or workers):
        backend = "ray"
    given = {"backend": backend, "address": address, "workers": workers}
    return [f"execution.{name}={value}" for name, value in given.items() if value is not None]


@contextmanager
def stop_on_signal(console: Console) -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) asks for a checkpoint and an orderly end, a second one ends at once."""
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
