"""`kcframe bench labels`: how long a run waits for Open Images' labels, and how much memory they take."""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from kcframe.cli.bench.figures import write_json
from kcframe.cli.options import JSON, count_option

CLASSES = 20_000
TOPS = 20  # verticals; a tenth of their classes have parents
AT_ONCE = 1_000_000  # rows written together


@click.command("labels")
@count_option("--rows", 9_000_000, "Labels in the made-up table.")
@count_option("--labels-per-image", 3, "Of them.")
@JSON
def command(rows: int, labels_per_image: int, json_file: str | None) -> None:
    """How long a run waits for Open Images' labels, and the memory they take: first, and from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        size = _make_up(Path(folder), rows, labels_per_image)
        figures: dict[str, Any] = {"rows": rows, "megabytes": size / 1e6}
        for name in ("first", "second"):
            with _fresh_process() as pool:
                figures[name] = pool.submit(_start, folder).result()
    images = figures["first"]["images"]
    table = Table(
        title=f"{rows:,} labels of {images:,} images, {figures['megabytes']:,.0f} MB of CSV",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("", "seconds", "peak memory of the process, MiB"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, what in (("first", "from the table"), ("second", "from this machine's cache")):
        row = figures[name]
        table.add_row(
            what, f"{row['seconds']:.1f}", f"{row['peak_mib']:,.0f} ({row['before_mib']:,.0f} before)"
        )
    Console().print(table)
    write_json(figures, json_file)


@contextmanager
def _fresh_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


def _make_up(folder: Path, rows: int, labels_per_image: int) -> int:
    """Write made-up files of Open Images to `folder`, and return the size of the label table in bytes."""
    names = "\n".join(f"/m/{number:05x},class {number}" for number in range(CLASSES))
    (folder / "class-descriptions.csv").write_text(names)
    tops = [
        {"LabelName": f"/m/{top:05x}", "Subcategory": [
            {"LabelName": f"/m/{number:05x}"} for number in range(top + TOPS, CLASSES // 10, TOPS)
        ]}
        for top in range(TOPS)
    ]  # fmt: skip
    hierarchy = {"LabelName": "/m/root", "Subcategory": tops}
    (folder / "bbox_labels_600_hierarchy.json").write_text(json.dumps(hierarchy))
    draws = np.random.default_rng(0)
    header = "ImageID,Source,LabelName,Confidence\n"
    small = "".join(f"{number:016x},verification,/m/{number:05x},1\n" for number in range(1000))
    (folder / "validation-annotations-human-imagelabels.csv").write_text(header + small)
    table = folder / "train-annotations-human-imagelabels.csv"
    with table.open("w") as file:
        file.write(header)
        for first in range(0, rows, AT_ONCE):
            number = np.arange(first, min(first + AT_ONCE, rows)) // labels_per_image
            images = (number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).tolist()
            classes = (CLASSES * draws.random(len(number)) ** 3).astype(int).tolist()
            present = (draws.random(len(number)) < 0.7).astype(int).tolist()
            file.writelines(
                f"{image:016x},verification,/m/{label:05x},{yes}\n"
                for image, label, yes in zip(images, classes, present, strict=True)
            )
    return table.stat().st_size


def _start(folder: str) -> dict[str, float]:
    """Do the work of a run before its first stage, and measure it."""
    from kcframe.builtin.sources.open_images.options import OpenImagesOptions
    from kcframe.builtin.sources.open_images.source import OpenImages

    before = _peak_mib()
    began = time.perf_counter()
    options = OpenImagesOptions(metadata=folder, images="{split}/{id}.jpg", cache=f"{folder}/cache")
    source = OpenImages(options)
    images = len(source.split("train"))
    seconds = time.perf_counter() - began
    return {"images": images, "seconds": seconds, "peak_mib": _peak_mib(), "before_mib": before}


def _peak_mib() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
