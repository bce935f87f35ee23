"""`kcframe cache`: what teachers say, asked once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

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

BYTES = 4 + 2  # of an output: its class, its logit


def cache_outputs(
    source: str,
    overrides: Sequence[str],
    run_dir_url: str | None,
    url: str | None,
    backend: str | None,
    address: str | None,
    verify: int | None,
) -> None:
    """Train what specialists are missing, ask the teachers of all arms about the training pictures of all
    epochs, and say what is kept. verify: ask again about so many images an epoch of each teacher instead."""
    given = [f"teacher_cache.url={url}"] if url else []
    recipe = load_recipe(
        source, installed(), (*overrides, *given, *execution_overrides(backend, address, None))
    )
    if recipe.teacher_cache is None:
        raise RecipeError(
            f"{source}: teacher_cache: is missing. Say where to keep what teachers say: --url URL"
        )
    # To fill it is what this command is for.
    filling = recipe.teacher_cache.model_copy(update={"fill": True})
    recipe = recipe.model_copy(update={"teacher_cache": filling})
    # torch comes in only now: a recipe with mistakes is refused at once.
    from kcframe.build.source import build_source
    from kcframe.build.teacher_cache import asking
    from kcframe.cli.display import RunDisplay
    from kcframe.run.pipeline import train

    if not asking(recipe):
        raise RecipeError(f"{source}: arms: none of them asks a teacher")
    run_dir = RunDir(run_dir_url or f"runs/{recipe.name}")
    console = Console()
    if verify is not None:
        _verify(recipe, build_source(recipe), run_dir, verify, console)
        return
    with stop_on_signal(console) as stop, RunDisplay(console) as display:
        try:
            data = train(recipe, run_dir, display, display.say, stop.is_set, ("specialist", "outputs"))
        except Interrupted as error:
            raise Interrupted(f"{error}. Everything is saved: give the same command again to go on") from None
    _show(recipe, data, run_dir, console)


def _show(recipe: Recipe, data: DataSource, run_dir: RunDir, console: Console) -> None:
    from kcframe.run.pipeline import plan

    stage = next(stage for stage in plan(recipe, data.taxonomy) if stage.kind == "outputs")
    table = _table("what teachers said", "epochs", "files", "MB")
    images = files = megabytes = 0
    # What the stage found: to build all teachers again may take longer than to ask them.
    for kept in run_dir.read_json(f"{stage.folder}/{RESULT}")["kept"]:
        size = kept["images"] * kept["outputs"] * BYTES * kept["epochs"] / 10**6
        row = _row(kept["teacher"], kept["images"], kept["outputs"])
        table.add_row(*row, f"{kept['epochs']}", f"{kept['files']:,}", f"{size:,.1f}")
        images, files, megabytes = images + kept["images"], files + kept["files"], megabytes + size
    table.add_section()
    table.add_row("all", f"{images:,}", "", "", f"{files:,}", f"{megabytes:,.1f}")
    console.print(table)
    click.echo(without_secrets(recipe.teacher_cache.url))


def _verify(recipe: Recipe, data: DataSource, run_dir: RunDir, samples: int, console: Console) -> None:
    from kcframe.build.teacher_cache import asking, check_teacher_cache, kept_already, outputs_of, view_of
    from kcframe.engine.teachers.asking import compare
    from kcframe.run.backends.local import choose_device

    check_teacher_cache(recipe)
    outputs = outputs_of(recipe, data, run_dir, asking(recipe))
    kept_already(outputs, recipe.seed)
    table = _table("what teachers said, and say when asked again", "files", "asked again", "differs by")
    device = choose_device(recipe.execution.device)
    for found in compare(outputs.needs, view_of(recipe, data), device, samples, whole=True):
        part = found.part
        row = _row(part.teacher, len(part.images), part.width)
        table.add_row(*row, f"{found.files:,}", f"{found.images:,}", f"{found.largest:.2g}")
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
