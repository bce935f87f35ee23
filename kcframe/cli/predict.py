"""`kcframe predict`: what a student sees in pictures."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kcframe.errors import DataError
from kcframe.run.backends.local import choose_device
from kcframe.storage.remote import without_secrets
from kcframe.students.load import Guess, load, split_arm
from kcframe.students.picture_files import Found, list_files, read_pictures
from kcframe.students.prediction_files import Row, outputs

SHOWN = 40  # pictures in the terminal's table
NAMED = 5  # bad pictures that are named there


def predict_pictures(
    run: str,
    places: Sequence[str],
    top: int,
    consistent: bool,
    batch_size: int,
    device: str,
    json_file: str | None,
    parquet: str | None,
    html: str | None,
) -> None:
    """Write predictions where they are wanted; a table to the terminal if nowhere.

    Pictures that cannot be used are counted and named. Raises DataError if none can be.
    """
    classifier = load(run, device=choose_device(device))
    found_places, left_out = list_files(places)
    shown: list[Row] = []
    bad: list[Found] = []
    to_file = any(target is not None for target in (json_file, parquet, html))
    with outputs(classifier, json_file, parquet, html) as wanted:
        for found in read_pictures(found_places, classifier.transform, batch_size, html is not None):
            pixels = [each.pixels for each in found if each.pixels is not None]
            images = classifier.transform.batch(pixels)
            guesses = iter(classifier.guesses(classifier.logits(images), top, consistent) if pixels else ())
            rows: list[Row] = [(each, [] if each.error else next(guesses)) for each in found]
            for output in wanted:
                output.add(rows)
            bad += [each for each in found if each.error]
            shown += [row for row in rows if not row[0].error][: SHOWN - len(shown)]
    console = Console(stderr=json_file == "-")
    if shown and not to_file:
        console.print(_table(shown))
    num_good = len(found_places) - len(bad)
    seen_by = f"{classifier.arm} of {without_secrets(split_arm(run)[0])}"
    said = f"{num_good:,} of {len(found_places):,} pictures, seen by {seen_by}"
    if not to_file and num_good > len(shown):
        said += f"; the first {len(shown)} are shown, --json, --parquet and --html have all"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
    for each in bad[:NAMED]:
        console.print(f"  {each.name}: {each.error}", markup=False, highlight=False, soft_wrap=True)
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
    for found, guesses in rows:
        for place, guess in enumerate(guesses):
            last = place == len(guesses) - 1
            name = found.name.rpartition("/")[2] if place == 0 else ""
            # As text: a class may be called "[b]".
            table.add_row(*(Text(cell) for cell in (name, *_cells(guess))), end_section=last)
    return table


def _cells(guess: Guess) -> tuple[str, ...]:
    parents = ", ".join(f"{name} {100 * p:.0f}" for name, p in guess.parents)
    return guess.name, f"{100 * guess.probability:.1f}", ", ".join(guess.verticals), parents
