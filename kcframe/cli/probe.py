"""`kcframe probe`: a student's features on a task that it was not trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kcframe.engine.evaluation.evaluate import Settings
from kcframe.report.table import cell
from kcframe.run.backends.local import choose_device
from kcframe.storage.writing import write_json
from kcframe.students.extras import need
from kcframe.students.load import load
from kcframe.students.probe import Probed, find_task, probe


def probe_student(
    run: str,
    data: str,
    overrides: Sequence[str],
    shots: Sequence[int],
    repeats: int,
    seed: int,
    batch_size: int,
    device: str,
    json_file: str | None,
) -> None:
    """Print accuracies of two simple classifiers over the student's features and over others."""
    need("kcframe probe", "probe", {"sklearn": "scikit-learn"})
    classifier = load(run)
    settings = Settings(batch_size, choose_device(device))
    task = find_task(data, overrides, classifier.transform, seed)
    console = Console()
    console.print(
        f"{task.name}: {len(task.classes):,} classes, {len(task.test[1]):,} pictures to be measured on",
        markup=False,
        highlight=False,
    )
    found: list[Probed] = []
    with console.status("") as status:
        for probed in probe(classifier, task, shots, repeats, seed, settings):
            found.append(probed)
            status.update(Text(f"{probed.features}, {probed.shots} shots"))
    console.print(_table(found, shots, repeats))
    if json_file is not None:
        about = {"data": task.name, "classes": len(task.classes), "test_images": len(task.test[1])}
        write_json(json_file, {**about, "rows": [asdict(probed) for probed in found]})


def _table(found: Sequence[Probed], shots: Sequence[int], repeats: int) -> Table:
    over = f", mean ± standard deviation over {repeats} draws" if repeats > 1 else ""
    table = Table(
        title=f"accuracy in percent by pictures a class{over}", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("features")
    table.add_column("D", justify="right")
    for classifier in ("linear", "nearest mean"):
        for count in shots:
            table.add_column(f"{classifier}, {count}", justify="right")
    for name in dict.fromkeys(probed.features for probed in found):
        rows = {probed.shots: probed for probed in found if probed.features == name}
        scores = [cell("accuracy", rows[count].linear) for count in shots]
        scores += [cell("accuracy", rows[count].nearest_mean) for count in shots]
        table.add_row(Text(name), f"{rows[shots[0]].num_features:,}", *scores)
    return table
