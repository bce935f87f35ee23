"""`kcframe bench step --backend ray`: a training step on a Ray worker against one in this process."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from kcframe.assembly.source import build_source
from kcframe.cli.bench.figures import spread, write_json
from kcframe.cli.display import RunDisplay
from kcframe.recipe.schema import Recipe
from kcframe.run.backends import get_backend
from kcframe.run.provenance import write_provenance
from kcframe.stages.arm import ArmStage
from kcframe.storage.layout import RESULT
from kcframe.storage.run_dir import RunDir


def bench_overhead(rounds: int, steps: int, json_file: str | None) -> None:
    """Compare a training step on a Ray worker with one in this process, and measure the start of Ray."""
    recipe = _recipe(steps)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    from kcframe.run.backends.ray.cluster import connect

    connect(recipe.execution)
    start = time.perf_counter() - began
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for backend in ("local", "ray"):
                name = f"{backend}-{number}"
                row = _one_run(recipe, backend, Path(folder) / name)
                rows.append({"backend": backend, **row})
                speed, beside = row["images_per_second"], row["beside"]
                console.print(f"  {name}: {speed:.0f} images/s, {beside:.1f} s beside steps")
    ratios = [
        local["images_per_second"] / ray["images_per_second"]
        for local, ray in zip(rows[::2], rows[1::2], strict=True)
    ]
    beside = [row["beside"] for row in rows if row["backend"] == "ray"]
    figures = {
        "ray_step_over_local": median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "cluster_start_seconds": start,
        "first_stage_beside_steps_seconds": beside[0],
        "later_stages_beside_steps_seconds": median(beside[1:]) if beside[1:] else None,
        "local_beside_steps_seconds": median(row["beside"] for row in rows if row["backend"] == "local"),
        "threads": torch.get_num_threads(),
        "rows": rows,
    }
    console.print(_table(figures, ratios))
    write_json(figures, json_file)


def _recipe(steps: int) -> Recipe:
    """A recipe with the quickstart's network, pictures in memory, one arm and one epoch of `steps` steps."""
    batch = 128
    data = {
        "verticals": 10,
        "classes": 1000,
        "image_size": 32,
        "test_images": 20,
        "train_images": batch * steps,
    }
    return Recipe.model_validate(
        {
            "kcframe": 1,
            "name": "bench",
            "data": {"name": "synthetic", "options": {**data, "train_images": batch * steps}},
            "arms": {
                "student": {
                    "backbone": {"name": "small-cnn", "options": {"widths": [16, 32, 64, 128]}},
                    "expander": {"name": "fc-sc", "options": {"s1": 128, "s2": 64}},
                    "pacing": {"name": "self-paced", "options": {"start": "base-rate"}},
                    "objective": {"name": "hard-bce"},
                    "train": {"epochs": 1, "batch_size": batch, "learning_rate": 1e-3, "log_every": 10},
                }
            },
            "execution": {"resources_per_worker": {"CPU": torch.get_num_threads()}, "device": "cpu"},
        }
    )


def _one_run(recipe: Recipe, backend: str, folder: Path) -> dict[str, float]:
    """images_per_second of the steps, and beside: the seconds of the run outside its steps."""
    run_dir, stage = RunDir(folder), ArmStage(arm="student")
    write_provenance(recipe, build_source(recipe), run_dir, lambda text: None)
    stage.begin(recipe, run_dir)
    began = time.perf_counter()
    with RunDisplay(Console(quiet=True)) as quiet:
        quiet.plan([stage], 0)
        get_backend(backend).run([stage], recipe, run_dir, quiet)
    wall = time.perf_counter() - began
    result = run_dir.read_json(f"{stage.folder}/{RESULT}")
    speed = result["images_per_second"]
    return {"images_per_second": speed, "beside": wall - result["train_images"] / speed}


def _table(figures: dict[str, Any], ratios: list[float]) -> Table:
    table = Table(title=f"a step, {figures['threads']} threads", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("time of a step on a Ray worker over one in this process", spread(ratios))
    table.add_row("starting the cluster", f"{figures['cluster_start_seconds']:.1f} s")
    first, later = figures["first_stage_beside_steps_seconds"], figures["later_stages_beside_steps_seconds"]
    table.add_row("first stage on Ray, beside its steps (a process imports torch)", f"{first:.1f} s")
    if later is not None:
        table.add_row("later stages on Ray, beside their steps (the process is used again)", f"{later:.1f} s")
    local = figures["local_beside_steps_seconds"]
    table.add_row("a stage in this process, beside its steps", f"{local:.1f} s")
    return table
