"""`kcframe probe`: how well a student's features serve a task that it was not trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kcframe.cli.options import DEVICE, JSON, PLUGIN, SET, STUDENT, batch_option, whole_numbers
from kcframe.report.table import cell
from kcframe.storage.writing import write_json
from kcframe.students.extras import need

if TYPE_CHECKING:
    from kcframe.students.probe import Probed


@click.command("probe")
@STUDENT
@click.argument("data", metavar="DATA")
@SET
@click.option(
    "--shots", default="1,5", show_default=True, metavar="N,…", help="Pictures a class to learn from."
)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Draws of them.")
@click.option("--seed", default=0, show_default=True, help="Of the draws.")
@batch_option(256)
@DEVICE
@JSON
@PLUGIN
def command(
    run: str,
    data: str,
    overrides: tuple[str, ...],
    shots: str,
    repeats: int,
    *,
    seed: int,
    batch: int,
    device: str,
    json_file: str | None,
) -> None:
    """How good a student's features are for a task that it was not trained for.

    DATA: a recipe, whose data section is used, or a folder (any URL) with a folder of pictures a class. A
    linear classifier and nearest class means, beside the specialists' features and an untrained backbone's.
    """
    counts = whole_numbers(shots, "--shots", "1,5,20")
    need("kcframe probe", "probe", {"sklearn": "scikit-learn"})
    from kcframe.engine.evaluation.evaluate import Settings
    from kcframe.run.backends.local import choose_device
    from kcframe.students.load import load
    from kcframe.students.probe import find_task, probe

    classifier = load(run)
    settings = Settings(batch, choose_device(device))
    task = find_task(data, overrides, classifier.transform, seed)
    console = Console()
    console.print(
        f"{task.name}: {len(task.classes):,} classes, {len(task.test[1]):,} pictures to be measured on",
        markup=False,
        highlight=False,
    )
    rows: list[Probed] = []
    with console.status("") as status:
        for row in probe(classifier, task, counts, repeats, seed, settings=settings):
            rows.append(row)
            status.update(Text(f"{row.features}, {row.shots} shots"))
    console.print(_table(rows, counts, repeats))
    if json_file is not None:
        about = {"data": task.name, "classes": len(task.classes), "test_images": len(task.test[1])}
        write_json(json_file, {**about, "rows": [asdict(row) for row in rows]})


def _table(rows: Sequence[Probed], shots: Sequence[int], repeats: int) -> Table:
    over = f", mean ± standard deviation over {repeats} draws" if repeats > 1 else ""
    table = Table(
        title=f"accuracy in percent by pictures a class{over}", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("features")
    table.add_column("D", justify="right")
    for classifier in ("linear", "nearest mean"):
        for count in shots:
            table.add_column(f"{classifier}, {count}", justify="right")
    for name in dict.fromkeys(row.features for row in rows):
        by_shots = {row.shots: row for row in rows if row.features == name}
        scores = [cell("accuracy", by_shots[count].linear) for count in shots]
        scores += [cell("accuracy", by_shots[count].nearest_mean) for count in shots]
        table.add_row(Text(name), f"{by_shots[shots[0]].num_features:,}", *scores)
    return table
