"""`kcframe cache`: ask teachers once and store their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kcframe.cli.options import ADDRESS, BACKEND, PLUGIN, RECIPE, SET
from kcframe.cli.run import execution_overrides, stop_on_signal
from kcframe.errors import Interrupted, RecipeError
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import Recipe
from kcframe.registry import installed
from kcframe.storage.layout import RESULT
from kcframe.storage.remote import without_secrets
from kcframe.storage.run_dir import RunDir

if TYPE_CHECKING:
    from kcframe.interfaces.data import DataSource

BYTES = 4 + 2  # bytes of one output: its class, its logit


@click.command("cache")
@RECIPE
@SET
@PLUGIN
@click.option("--run-dir", metavar="URL", help="Of the run whose specialists are asked. Default: runs/NAME.")
@click.option("--url", metavar="URL", help="Where outputs are kept: short for --set teacher_cache.url=…")
@BACKEND
@ADDRESS
@click.option("--verify", is_flag=True, help="Read all that is kept, and ask again about a sample of it.")
@click.option(
    "--samples",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    help="With --verify: images of each teacher, an epoch.",
)
def command(
    recipe: str,
    overrides: tuple[str, ...],
    run_dir: str | None,
    verify: bool,
    samples: int,
    **options: Any,
) -> None:
    """Ask a recipe's teachers about all training pictures once, and keep what they say for its arms."""
    cache_outputs(recipe, overrides, run_dir, verify=samples if verify else None, **options)


def cache_outputs(
    source: str,
    overrides: Sequence[str],
    run_dir_url: str | None,
    url: str | None,
    *,
    backend: str | None = None,
    address: str | None = None,
    verify: int | None = None,
) -> None:
    """Train the specialists that are missing, ask the teachers of all arms about the training pictures of all
    epochs, and print a table of the stored outputs.

    verify: instead, check the stored outputs, and ask again about this many images per teacher and epoch.
    """
    cache_override = [f"teacher_cache.url={url}"] if url else []
    recipe = load_recipe(
        source, installed(), (*overrides, *cache_override, *execution_overrides(backend, address, None))
    )
    if recipe.teacher_cache is None:
        raise RecipeError(
            f"{source}: teacher_cache: is missing. Say where to keep what teachers say: --url URL"
        )
    # This command fills the cache, whatever the recipe says.
    filling = recipe.teacher_cache.model_copy(update={"fill": True})
    recipe = recipe.model_copy(update={"teacher_cache": filling})
    # torch is imported only now, so that a recipe with mistakes is refused at once.
    from kcframe.assembly.arms import asking_teachers, resolve_arms
    from kcframe.assembly.source import build_source
    from kcframe.cli.display import RunDisplay
    from kcframe.run.pipeline import train

    if not asking_teachers(resolve_arms(recipe)):
        raise RecipeError(f"{source}: arms: none of them asks a teacher")
    run_dir = RunDir(run_dir_url or f"runs/{recipe.name}")
    console = Console()
    if verify is not None:
        _verify(recipe, build_source(recipe), run_dir, verify, console)
        return
    with stop_on_signal(console) as stop, RunDisplay(console, stop.is_set) as display:
        try:
            data = train(recipe, run_dir, display, lambda plan: plan.before_arms)
        except Interrupted as error:
            raise Interrupted(f"{error}. Everything is saved: give the same command again to go on") from None
    _show(recipe, data, run_dir, console)


def _show(recipe: Recipe, data: DataSource, run_dir: RunDir, console: Console) -> None:
    from kcframe.stages.plan import plan_stages

    stage = plan_stages(recipe, data.taxonomy).outputs[0]
    table = _table("what teachers said", "epochs", "files", "MB")
    images = files = megabytes = 0
    # The figures come from the stage's result: building all teachers again may take longer than asking them.
    for teacher in run_dir.read_json(f"{stage.folder}/{RESULT}")["kept"]:
        size = teacher["images"] * teacher["outputs"] * BYTES * teacher["epochs"] / 10**6
        row = _row(teacher["teacher"], teacher["images"], teacher["outputs"])
        table.add_row(*row, f"{teacher['epochs']}", f"{teacher['files']:,}", f"{size:,.1f}")
        images, files, megabytes = images + teacher["images"], files + teacher["files"], megabytes + size
    table.add_section()
    table.add_row("all", f"{images:,}", "", "", f"{files:,}", f"{megabytes:,.1f}")
    console.print(table)
    if recipe.teacher_cache is not None:
        click.echo(without_secrets(recipe.teacher_cache.url))


def _verify(recipe: Recipe, data: DataSource, run_dir: RunDir, samples: int, console: Console) -> None:
    from kcframe.assembly.arms import asking_teachers, resolve_arms
    from kcframe.assembly.teacher_cache import cache_needs, check_teacher_cache, refuse_missing, view_of
    from kcframe.engine.teachers.asking import compare
    from kcframe.run.backends.local import choose_device

    arms = asking_teachers(resolve_arms(recipe))
    check_teacher_cache(recipe, arms)
    wanted = cache_needs(recipe, data, run_dir, arms)
    refuse_missing(wanted, recipe.seed)
    table = _table("what teachers said, and say when asked again", "files", "asked again", "differs by")
    device = choose_device(recipe.execution.device)
    for comparison in compare(wanted.needs, view_of(recipe, data), device, samples, whole=True):
        stored = comparison.stored
        row = _row(stored.teacher, len(stored.images), stored.width)
        table.add_row(*row, f"{comparison.files:,}", f"{comparison.images:,}", f"{comparison.largest:.2g}")
    console.print(table)
    click.echo("nothing is damaged, and no logit differs by more than rounding")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("teacher")
    for column in ("images", "outputs", *columns):
        table.add_column(column, justify="right")
    return table


def _row(teacher: str, images: int, outputs: int) -> tuple[Text, str, str]:
    return Text(teacher), f"{images:,}", f"{outputs:,}"
