"""`kcframe describe`: a recipe's layers, its numbers of parameters and the cost of reading its pictures.

The networks are built on torch's meta device, so that nothing is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table

from kcframe.cli.options import PLUGIN, RECIPE, SET
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed

if TYPE_CHECKING:
    from kcframe.engine.model import Student

MIB = 2**20


@click.command("describe")
@RECIPE
@SET
@PLUGIN
def command(recipe: str, overrides: tuple[str, ...]) -> None:
    """Show a recipe's layers and parameters, and what reading its pictures costs; nothing is trained."""
    loaded = load_recipe(recipe, installed(), overrides)
    # torch is imported only now, so that a recipe with mistakes is refused at once.
    import torch

    from kcframe.assembly.networks import build_student
    from kcframe.assembly.source import build_source
    from kcframe.engine.model import count_parameters
    from kcframe.run.storage_cost import reading_of, reading_table

    data = build_source(loaded)
    taxonomy = data.taxonomy
    console = Console()
    console.print(
        f"{loaded.name}: {taxonomy.num_classes:,} classes in {taxonomy.num_verticals} verticals "
        f"({min(taxonomy.sizes):,} to {max(taxonomy.sizes):,} a vertical), pictures "
        f"{data.channels}x{data.image_size}x{data.image_size}",
        highlight=False,
    )
    layers: dict[str, str] = {}
    as_published: dict[str, str] = {}
    rows: list[list[str]] = []
    published = None
    for name, spec in loaded.arms.items():
        with torch.device("meta"):
            student = build_student(spec, data.channels, data.image_size, taxonomy)
        layers[name] = _layers(student, spec)
        row = [name, *_counts(student)]
        if (base := student.backbone.published_parameters) is not None:
            published = base
            head = count_parameters(student) - count_parameters(student.backbone)
            as_published[name] = f"{(head + base) // MIB:.0f}M"
        rows.append(row)
    if loaded.specialists is not None:
        layers["specialists"] = f"{taxonomy.num_verticals} x {loaded.specialists.backbone.name}"
        rows.append(["specialists", *_specialists(loaded, data)])
    texts = [[name, text, as_published.get(name, "")] for name, text in layers.items()]
    console.print(_table("layers", ["", "", "published" if as_published else ""], texts))
    headings = ["", "backbone", "expander", "classifiers", "pacing", "total", "/ 2^20"]
    console.print(_table("parameters", headings, rows))
    if (reading := reading_of(loaded, data)) is not None:
        console.print(reading_table(reading))
    if published is not None:
        console.print(
            f"published: with {published / MIB:.1f}M for the backbone, as its source counts it; M = 2^20, "
            "rounded down",
            highlight=False,
        )


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for 80 columns: a long name continues in the next line, a figure stays in one line."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.show_header = any(headings)
    table.add_column(overflow="fold", min_width=11)
    for heading in headings[1:]:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    for row in rows:
        table.add_row(*row)
    return table


def _layers(student: Student, spec) -> str:
    sizes = spec.expander.options
    text = ", ".join(f"{key} {sizes[key]}" for key in ("s1", "s2", "x") if key in sizes)
    return f"{spec.backbone.name} {student.backbone.num_features} -> {spec.expander.name} {text}"


def _counts(student: Student) -> list[str]:
    from kcframe.engine.model import count_parameters

    head = student.head
    parts = [student.backbone, head.expander, head.classifiers, head.pacing]
    total = count_parameters(student)
    return [*(f"{count_parameters(part):,}" for part in parts), f"{total:,}", f"{total / MIB:.1f}M"]


def _specialists(recipe, data) -> list[str]:
    import torch

    from kcframe.assembly.networks import build_specialist
    from kcframe.engine.model import count_parameters

    backbones = classifiers = 0
    for size in data.taxonomy.sizes:
        with torch.device("meta"):
            specialist = build_specialist(recipe.specialists, data.channels, data.image_size, size)
        backbones += count_parameters(specialist.backbone)
        classifiers += count_parameters(specialist.head)
    total = backbones + classifiers
    return [f"{backbones:,}", "0", f"{classifiers:,}", "0", f"{total:,}", f"{total / MIB:.1f}M"]
