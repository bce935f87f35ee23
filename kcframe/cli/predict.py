"""`kcframe predict`: a student's guesses for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kcframe.cli.options import DEVICE, PLUGIN, STUDENT, batch_option
from kcframe.errors import DataError
from kcframe.storage.remote import without_secrets

if TYPE_CHECKING:
    from kcframe.students.load import Guess
    from kcframe.students.picture_files import PictureFile
    from kcframe.students.prediction_files import Row

SHOWN = 40  # pictures in the terminal's table
NAMED = 5  # bad pictures that the terminal lists


@click.command("predict")
@STUDENT
@click.argument("pictures", metavar="PICTURE…", nargs=-1, required=True)
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Classes a picture.")
@click.option("--consistent", is_flag=True, help="No parent is less probable than its child.")
@click.option("--json", "json_file", metavar="FILE", help="Write a JSON object a picture; - for here.")
@click.option("--parquet", metavar="FILE", help="Write a row a picture.")
@click.option("--html", metavar="FILE", help="Write a page of pictures with what is seen in them.")
@batch_option(64)
@DEVICE
@PLUGIN
def command(**given: Any) -> None:
    """What a student sees in pictures: files, folders, patterns or URLs (any fsspec protocol).

    ARM: which student of the run. Default: the one with the highest mpvap.
    """
    predict_pictures(**given)


def predict_pictures(
    run: str,
    pictures: Sequence[str],
    top: int,
    consistent: bool,
    batch: int,
    *,
    device: str,
    json_file: str | None = None,
    parquet: str | None = None,
    html: str | None = None,
) -> None:
    """Write predictions to the given files; if none is given, print a table.

    The end of the output counts and names the pictures that cannot be used. Raises DataError if no picture
    can be used.
    """
    from kcframe.run.backends.local import choose_device
    from kcframe.students.load import load, split_arm
    from kcframe.students.picture_files import list_files, read_pictures
    from kcframe.students.prediction_files import outputs

    classifier = load(run, device=choose_device(device))
    places, left_out = list_files(pictures)
    shown: list[Row] = []
    bad: list[PictureFile] = []
    to_file = any(target is not None for target in (json_file, parquet, html))
    with outputs(classifier, json_file, parquet, html) as writers:
        for read in read_pictures(places, classifier.transform, batch, html is not None):
            pixels = [picture.pixels for picture in read if picture.pixels is not None]
            images = classifier.transform.batch(pixels)
            guesses = iter(classifier.guesses(classifier.logits(images), top, consistent) if pixels else ())
            rows: list[Row] = [(picture, [] if picture.error else next(guesses)) for picture in read]
            for writer in writers:
                writer.add(rows)
            bad += [picture for picture in read if picture.error]
            shown += [row for row in rows if not row[0].error][: SHOWN - len(shown)]
    console = Console(stderr=json_file == "-")
    if shown and not to_file:
        console.print(_table(shown))
    num_good = len(places) - len(bad)
    student = f"{classifier.arm} of {without_secrets(split_arm(run)[0])}"
    summary = f"{num_good:,} of {len(places):,} pictures, seen by {student}"
    if not to_file and num_good > len(shown):
        summary += f"; the first {len(shown)} are shown, --json, --parquet and --html have all"
    console.print(summary, markup=False, highlight=False, soft_wrap=True)
    for picture in bad[:NAMED]:
        console.print(f"  {picture.name}: {picture.error}", markup=False, highlight=False, soft_wrap=True)
    if len(bad) > NAMED:
        console.print(f"  and {len(bad) - NAMED:,} more")
    if left_out:
        endings = ", ".join(f"{count:,} {ending}" for ending, count in left_out.most_common(NAMED))
        console.print(f"not looked at, by their names: {endings}", markup=False, highlight=False)
    for target in (json_file, parquet, html):
        if target not in (None, "-"):
            console.print(target, markup=False, highlight=False, soft_wrap=True)
    if not num_good:
        raise DataError("no picture could be used")


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("picture", overflow="fold", max_width=40)
    for heading in ("class", "percent", "vertical", "parents"):
        table.add_column(heading, justify="right" if heading == "percent" else "left", overflow="fold")
    for picture, guesses in rows:
        for place, guess in enumerate(guesses):
            last = place == len(guesses) - 1
            name = picture.name.rpartition("/")[2] if place == 0 else ""
            # Text, because a class may have a name like "[b]", which rich would take for markup.
            table.add_row(*(Text(cell) for cell in (name, *_cells(guess))), end_section=last)
    return table


def _cells(guess: Guess) -> tuple[str, ...]:
    parents = ", ".join(f"{name} {100 * p:.0f}" for name, p in guess.parents)
    return guess.name, f"{100 * guess.probability:.1f}", ", ".join(guess.verticals), parents
