"""`kcframe tune`: a sweep over the fields in a recipe's search section."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import click
import yaml
from rich.console import Console

from kcframe.cli.options import PLUGIN, RECIPE, SET
from kcframe.errors import Interrupted, RecipeError, TrainingError
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import Recipe, StudentSpec
from kcframe.recipe.search import searched_arm, with_values
from kcframe.registry import installed
from kcframe.storage.layout import BEST, SWEEP, SWEEP_FIGURE
from kcframe.storage.run_dir import RunDir


@click.command("tune")
@RECIPE
@SET
@PLUGIN
@click.option("--run-dir", metavar="URL", help="Where the sweep is kept. Default: runs/NAME-sweep.")
def command(recipe: str, overrides: tuple[str, ...], run_dir: str | None) -> None:
    """Try values for the fields in a recipe's search section (Ray Tune); keep the best as best.yaml."""
    tune_recipe(recipe, overrides, run_dir)


def tune_recipe(source: str, overrides: Sequence[str], run_dir_url: str | None) -> None:
    """Sweep over a recipe's search; write a table, a figure and best.yaml to the run directory."""
    given = load_recipe(source, installed(), overrides)
    if given.search is None:
        raise RecipeError(
            f"{source}: search: is missing. Name the fields to vary, for example\n"
            "search:\n  trials: 20\n  fields:\n    train.learning_rate: {low: 0.0001, high: 0.01, log: true}"
        )
    recipe = given.model_copy(
        update={
            "evaluation": given.evaluation.model_copy(update={"split": "validation"}),
            "execution": given.execution.model_copy(update={"backend": "ray"}),
        }
    )
    run_dir = RunDir(run_dir_url or f"runs/{recipe.name}-sweep")
    console = Console()
    arm = searched_arm(recipe)
    console.print(
        f"{recipe.name}: a sweep over arm {arm}, run directory {run_dir}", markup=False, highlight=False
    )
    from kcframe.cli.display import RunDisplay
    from kcframe.cli.run import stop_on_signal
    from kcframe.report.sweep import draw_sweep, ranked, sweep_table
    from kcframe.run.pipeline import train

    again = "Everything is saved: give the same command again to go on"
    try:
        with stop_on_signal(console) as stop, RunDisplay(console, stop.is_set) as display:
            # If the recipe has no specialists, this only records the state from which the sweep starts.
            train(recipe, run_dir, display, lambda plan: plan.before_arms, _learners(recipe))
        from kcframe.run.backends.ray.tune import arm_of, sweep

        def say(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        with _term_is_interrupt():
            finished = sweep(recipe, run_dir, say)
    except Interrupted as error:
        raise Interrupted(f"{error}. {again}") from None
    trials = ranked([asdict(trial) for trial in finished])
    best = trials[0]
    if best["mpvap"] is None:
        raise TrainingError(f"none of the {len(trials)} trials could be trained; see the lines above")
    run_dir.write_json(
        SWEEP, {"metric": "mpvap, validation", "arm": arm, "best": best["name"], "trials": trials}
    )
    run_dir.write(SWEEP_FIGURE, draw_sweep(trials))
    best_recipe = arm_of(recipe.model_copy(update={"execution": given.execution}), arm, best["values"])
    run_dir.write(BEST, _as_file(best_recipe, best, len(trials)))
    console.print(sweep_table(trials))
    click.echo(f"picture: {run_dir.shown(SWEEP_FIGURE)}")
    click.echo(run_dir.shown(BEST))


def _learners(recipe: Recipe) -> dict[str, StudentSpec]:
    """The arms whose teachers are asked before the first trial: the searched arm, and one more for each value
    of a searched field that changes the questions to the teachers."""
    name, schema = searched_arm(recipe), installed().options_schema
    arms = {name: recipe.arms[name]}
    fields = {} if recipe.search is None else recipe.search.fields
    for field, distribution in fields.items():
        if field.startswith(("objective.", "train.epochs", "train.precision")):
            for number, value in enumerate(distribution.examples()):
                arms[f"{name}, {field} {number}"] = with_values(recipe.arms[name], {field: value}, schema)
    return arms


def _as_file(recipe: Recipe, best: dict, num_trials: int) -> str:
    head = (
        f"# The best of {num_trials} trials: {best['mpvap']:.2f} mpvap on a validation split of the\n"
        "# training images. `kcframe run` gives that figure again. To train on all of them and measure on\n"
        "# the test split: kcframe run best.yaml --set evaluation.split=test\n"
    )
    plain = recipe.model_dump(mode="json", exclude={"search"})
    return head + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


@contextmanager
def _term_is_interrupt() -> Iterator[None]:
    """Turn SIGTERM into Ctrl-C: Ray Tune then saves its state when a machine is preempted, too."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
