"""`kcframe bench data`: pictures a second from a recipe's source, by number of loading processes."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import fsspec
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from kcframe.build.source import build_source
from kcframe.cli.bench.figures import spread, write_json
from kcframe.cli.bench.pictures import LAYOUTS, made_up_recipe
from kcframe.engine.data.batches import Plan, load_batches
from kcframe.engine.data.sampler import Sampler
from kcframe.errors import StorageError
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import Recipe
from kcframe.registry import installed
from kcframe.storage.remote import explained, storage_options, without_secrets


def bench_data(
    source: str | None,
    overrides: Sequence[str],
    workers: Sequence[int],
    batches: int,
    rounds: int,
    ray_data: bool,
    json_file: str | None,
    places: Sequence[str] = (),
) -> None:
    """Load training batches, augmented as a student would see them, each way in its turn.

    source: a recipe; None: made-up JPEG files. places: URLs where these are written and read, as files, in a
    tar shard and in a Parquet file, and deleted again. As many batches again as the measured ones come before
    them, unmeasured.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as written:
        sources = {"": source}
        if source is None and not places:
            sources = {"": str(made_up_recipe(Path(folder)))}
        elif source is None:
            sources = {
                f"{without_secrets(place)}, {layout}: ": recipe
                for place in places
                for layout, recipe in written.enter_context(_lent(place, Path(folder))).items()
            }
        _compare(sources, overrides, workers, batches, rounds, ray_data, json_file)


@contextmanager
def _lent(place: str, folder: Path) -> Iterator[dict[str, str]]:
    """Recipes, below `folder`, that read pictures in a new folder at a URL, in each layout; the pictures are
    gone afterwards. StorageError if they cannot be written."""
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
        with suppress(Exception):  # it may not be there, and what went wrong before is what is told
            if storage is not None:
                storage.rm(path, recursive=True)


def _compare(
    sources: dict[str, str],
    overrides: Sequence[str],
    workers: Sequence[int],
    batches: int,
    rounds: int,
    ray_data: bool,
    json_file: str | None,
) -> None:
    """sources: recipes, by what their ways are called before how they are loaded."""
    ways: dict[str, Any] = {}
    for about, source in sources.items():
        recipe = load_recipe(source, installed(), overrides)
        images = build_source(recipe).split("train")
        train = next(iter(recipe.arms.values())).train
        plan = Plan(
            images,
            images.labels,
            Sampler(torch.arange(len(images)), train.batch_size, recipe.seed),
            recipe.seed,
        )
        for n in workers:
            ways[about + _name(n)] = lambda steps, n=n, plan=plan: load_batches(plan, steps, n)
    if ray_data:
        from kcframe.run.backends.ray.data import connect_and_load

        for n in workers:
            if n:
                ways[f"Ray Data, {n}"] = lambda steps, n=n: connect_and_load(recipe, steps, n)
    rows: list[dict[str, Any]] = []
    console = Console()
    for number in range(rounds):
        for way, load in ways.items():
            # Other pictures each round: nothing is in a cache that an epoch would not find there.
            first = number * 2 * batches
            row = _timed(load(range(first, first + 2 * batches)), batches)
            rows.append({"way": way, "round": number, **row})
    speeds = {way: [row["images_per_second"] for row in rows if row["way"] == way] for way in ways}
    base = next(iter(speeds))
    found = {
        "recipe": recipe.name,
        "source": recipe.data.name,
        "batch_size": train.batch_size,
        "images_per_second": {way: median(values) for way, values in speeds.items()},
        "over_first": {
            way: [a / b for a, b in zip(values, speeds[base], strict=True)] for way, values in speeds.items()
        },
        "rows": rows,
    }
    console.print(_table(found, speeds, recipe, rows))
    write_json(found, json_file)


def _name(processes: int) -> str:
    if processes == 0:
        return "this process"
    return f"DataLoader, {processes}"


def _timed(loaded: Iterator[Any], warm_up: int) -> dict[str, float]:
    """The first batch carries the start of processes, the next ones were read ahead meanwhile."""
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


def _table(found: dict[str, Any], speeds: dict[str, list[float]], recipe: Recipe, rows: list) -> Table:
    title = f"{recipe.name}, batches of {found['batch_size']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("loaded by", "images/s", "over the first", "first batch"):
        table.add_column(column, justify="left" if column == "loaded by" else "right")
    for way, values in speeds.items():
        first = median(row["first_batch_seconds"] for row in rows if row["way"] == way)
        table.add_row(way, spread(values, 0), spread(found["over_first"][way], 2), f"{first:.1f} s")
    return table
