"""`kcframe bench data`: pictures per second from a recipe's data source, by number of loading processes."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import click
import fsspec
from rich import box
from rich.console import Console
from rich.table import Table

from kcframe.cli.bench.figures import spread, write_json
from kcframe.cli.bench.pictures import LAYOUTS, made_up_recipe
from kcframe.cli.options import JSON, PLUGIN, ROUNDS, SET, whole_numbers
from kcframe.errors import StorageError
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import Recipe
from kcframe.registry import installed
from kcframe.storage.remote import explained, storage_options, without_secrets

Load = Callable[[range], Iterator[Any]]  # steps -> their batches


@click.command("data")
@click.argument("recipe", metavar="[RECIPE]", required=False)
@SET
@PLUGIN
@click.option(
    "--workers", default="0,1,2", show_default=True, metavar="N,…", help="Numbers of loading processes."
)
@click.option("--batches", default=20, show_default=True, type=click.IntRange(1), help="Batches a turn.")
@ROUNDS
@click.option("--ray-data", is_flag=True, help="Compare with Ray Data.")
@click.option(
    "--at",
    "places",
    multiple=True,
    metavar="URL",
    help="Without RECIPE: where the made-up files are written, read as files, from a tar shard and from "
    "Parquet, and deleted again; several are compared.",
)
@JSON
def command(
    recipe: str | None,
    overrides: tuple[str, ...],
    workers: str,
    batches: int,
    rounds: int,
    *,
    ray_data: bool,
    places: tuple[str, ...],
    json_file: str | None,
) -> None:
    """Pictures a second, loaded and augmented, from a recipe's data source; or from made-up JPEG files."""
    counts = whole_numbers(workers, "--workers", "0,2,4", least=0)
    if places and (recipe or ray_data):
        raise click.UsageError("--at is for made-up files: leave RECIPE and --ray-data out")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as lent:
        sources = _sources(recipe, places, Path(folder), lent)
        recipes = {label: load_recipe(source, installed(), overrides) for label, source in sources.items()}
        ways = _ways(recipes, counts)
        last = list(recipes.values())[-1]
        if ray_data:
            ways |= _ray_ways(last, counts)
        rows = _in_turn(ways, batches, rounds)
    speeds = {way: [row["images_per_second"] for row in rows if row["way"] == way] for way in ways}
    base = next(iter(speeds))
    figures = {
        "recipe": last.name,
        "source": last.data.name,
        "batch_size": _batch_size(last),
        "images_per_second": {way: median(values) for way, values in speeds.items()},
        "over_first": {
            way: [a / b for a, b in zip(values, speeds[base], strict=True)] for way, values in speeds.items()
        },
        "rows": rows,
    }
    Console().print(_table(figures, speeds))
    write_json(figures, json_file)


def _sources(recipe: str | None, places: Sequence[str], folder: Path, lent: ExitStack) -> dict[str, str]:
    """The recipes to compare: label of their ways -> file. folder: for recipes of made-up pictures. lent:
    deletes the made-up pictures at `places` when it is closed."""
    if recipe is not None:
        return {"": recipe}
    if not places:
        return {"": str(made_up_recipe(folder))}
    return {
        f"{without_secrets(place)}, {layout}: ": file
        for place in places
        for layout, file in lent.enter_context(_made_up_at(place, folder)).items()
    }


@contextmanager
def _made_up_at(place: str, folder: Path) -> Iterator[dict[str, str]]:
    """Write made-up pictures to a new folder at a URL in each layout, and delete them at the end.

    Gives recipes, below `folder`, that read them: layout -> file. Raises StorageError if the pictures cannot
    be written.
    """
    url = f"{place.rstrip('/')}/kcframe-bench-{uuid.uuid4().hex[:8]}"
    storage = None
    try:
        try:
            storage, path = fsspec.url_to_fs(url, **storage_options(url, False))
            recipes = {layout: str(made_up_recipe(folder, url, layout)) for layout in LAYOUTS}
        except Exception as error:  # each storage raises its own
            shown = without_secrets(place)
            raise StorageError(
                f"--at {shown}: made-up files cannot be written there: {explained(error)}"
            ) from None
        yield recipes
    finally:
        with suppress(Exception):  # the folder may be missing; the user sees the earlier error
            if storage is not None:
                storage.rm(path, recursive=True)


def _ways(recipes: dict[str, Recipe], workers: Sequence[int]) -> dict[str, Load]:
    """kcframe's own loading, for each recipe and number of processes."""
    import torch

    from kcframe.assembly.source import build_source
    from kcframe.engine.data.batches import BatchPlan, load_batches
    from kcframe.engine.data.sampler import Sampler
    from kcframe.engine.data.split import Split

    ways: dict[str, Load] = {}
    for label, recipe in recipes.items():
        images = build_source(recipe).split("train")
        sampler = Sampler(torch.arange(len(images)), _batch_size(recipe), recipe.seed)
        plan = BatchPlan(Split.whole(images), sampler, recipe.seed)
        for n in workers:
            ways[label + _name(n)] = lambda steps, n=n, plan=plan: load_batches(plan, steps, n)
    return ways


def _ray_ways(recipe: Recipe, workers: Sequence[int]) -> dict[str, Load]:
    from kcframe.run.backends.ray.data import connect_and_load

    return {f"Ray Data, {n}": lambda steps, n=n: connect_and_load(recipe, steps, n) for n in workers if n > 0}


def _batch_size(recipe: Recipe) -> int:
    return next(iter(recipe.arms.values())).train.batch_size


def _name(processes: int) -> str:
    return "this process" if processes == 0 else f"DataLoader, {processes}"


def _in_turn(ways: dict[str, Load], batches: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each way and round. As many batches as the timed ones come before them, for warming up."""
    rows: list[dict[str, Any]] = []
    for number in range(rounds):
        for way, load in ways.items():
            # Each round loads other pictures, so that no cache helps more than it would in an epoch.
            first = number * 2 * batches
            row = _timed(load(range(first, first + 2 * batches)), batches)
            rows.append({"way": way, "round": number, **row})
    return rows


def _timed(loaded: Iterator[Any], warm_up: int) -> dict[str, float]:
    """The first batch waits for the start of the processes, and they read the next ones ahead meanwhile: so
    the first `warm_up` batches are not part of the speed."""
    began = time.perf_counter()
    next(loaded)
    start = time.perf_counter() - began
    for _ in range(warm_up - 1):
        next(loaded)
    images = 0
    began = time.perf_counter()
    for batch in loaded:
        images += len(batch.images)
    return {"images_per_second": images / (time.perf_counter() - began), "first_batch_seconds": start}


def _table(figures: dict[str, Any], speeds: dict[str, list[float]]) -> Table:
    title = f"{figures['recipe']}, batches of {figures['batch_size']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("loaded by", "images/s", "over the first", "first batch"):
        table.add_column(column, justify="left" if column == "loaded by" else "right")
    for way, values in speeds.items():
        first = median(row["first_batch_seconds"] for row in figures["rows"] if row["way"] == way)
        table.add_row(way, spread(values, 0), spread(figures["over_first"][way], 2), f"{first:.1f} s")
    return table
