"""Asks teachers ahead of training, and asks again to see whether what is kept is still what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from kcframe.engine.data.bad_images import BadImages
from kcframe.engine.data.batches import Batch, load_batches
from kcframe.engine.plugin_calls import ask_tensor, finite
from kcframe.engine.teachers.stored_outputs import LARGEST, Kept, Part, best
from kcframe.errors import DataError, Interrupted
from kcframe.interfaces.data import ImageSet
from kcframe.interfaces.teacher import Teacher
from kcframe.interfaces.toolkit.randomness import image_keys

PICTURES = 256  # that a teacher sees at a time
# By which logits may differ, and by that share of them: other machines round otherwise, and decode JPEG
# files otherwise. Other pictures differ by more.
ROUNDING = {"float32": 0.2, "bfloat16": 0.4}


@dataclass(frozen=True)
class Need:
    """A part, its teacher, and how many epochs of it are wanted."""

    part: Part
    teacher: Teacher
    epochs: int


@dataclass(frozen=True)
class View:
    """Pictures as training sees them. max_bad_fraction: of them, that may be unreadable."""

    images: ImageSet
    seed: int
    max_bad_fraction: float = 0.0

    def load(self, epoch: int, indices: Tensor) -> tuple[Tensor, dict[int, str]]:
        """(pictures, the rows that could not be read with their reasons)."""
        keys = image_keys(self.seed, epoch, indices)
        if self.max_bad_fraction:
            return self.images.load_readable(indices, keys)
        return self.images.load(indices, keys), {}


def fill(
    needs: Sequence[Need],
    view: View,
    device: torch.device,
    processes: int = 0,
    share: tuple[int, int] = (0, 1),
    told: Callable[[int, int], None] = lambda done, all: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Ask for what is missing, and keep it; returns how many files were written.

    processes: that load pictures ahead. share: (i, n), the i-th of n that share the work. told: of so many
    batches done, of all. Raises Interrupted once `should_stop` says so; files that are finished stay.
    """
    units = [
        _Unit(need, epoch, number)
        for need in needs
        for epoch in range(need.epochs)
        for number in range(need.part.num_files)
    ][share[0] :: share[1]]
    lacking = {id(need): set(need.part.missing(view.seed, need.epochs)) for need in needs}
    units = [unit for unit in units if (unit.epoch, unit.number) in lacking[id(unit.need)]]
    plan = _Plan(view, units)
    batches = load_batches(plan, range(len(plan.pieces)), processes)
    unreadable = BadImages(len(view.images), view.max_bad_fraction)
    done = 0
    for unit in units:
        part, label_map = unit.need.part, unit.need.teacher.label_map.to(device)
        classes, logits = [], []
        for _ in range(unit.num_pieces):
            if should_stop():
                raise Interrupted(f"stopped after {done} of {len(plan.pieces)} batches of teacher outputs")
            batch, images = next(batches), plan.pieces[done][1]
            unreadable.add({int(images[row]): why for row, why in batch.bad.items()}, len(images))
            named, said = best(ask(unit.need, batch.images, device), label_map, part.width)
            said[list(batch.bad)] = torch.nan
            classes.append(named)
            logits.append(said)
            done += 1
            told(done, len(plan.pieces))
        named = None if part.whole else torch.cat(classes).numpy()
        kept = Kept(unit.images.numpy(), named, torch.cat(logits).numpy())
        part.write(view.seed, unit.epoch, unit.number, kept)
    return len(units)


@torch.inference_mode()
def ask(need: Need, pictures: Tensor, device: torch.device) -> Tensor:
    """float32 [b, C]: a teacher's logits of pictures [b, ...], computed as in training."""
    teacher = need.teacher.to(device).eval()
    low = need.part.about["precision"] == "bfloat16"
    with torch.autocast(device.type, dtype=torch.bfloat16) if low else nullcontext():
        shape = (len(pictures), len(teacher.label_map))
        logits = ask_tensor(teacher, "forward", shape, pictures.to(device)).float()
    return finite(teacher, "forward", logits)


@dataclass(frozen=True)
class _Unit:
    need: Need
    epoch: int
    number: int

    @property
    def images(self) -> Tensor:
        return self.need.part.own(self.number)

    @property
    def num_pieces(self) -> int:
        return math.ceil(len(self.images) / PICTURES)


class _Plan:
    """The batches of some units, by number."""

    def __init__(self, view: View, units: Sequence[_Unit]):
        self.view = view
        self.pieces = [(u.epoch, images) for u in units for images in u.images.split(PICTURES)]

    def __getitem__(self, number: int) -> Batch:
        epoch, images = self.pieces[number]
        pictures, bad = self.view.load(epoch, images)
        return Batch(pictures, None, len(images), bad)


@dataclass
class Compared:
    """What asking again gave. images: how many. largest: the largest difference of a logit."""

    part: Part
    files: int
    images: int
    largest: float


def compare(
    needs: Sequence[Need], view: View, device: torch.device, samples: int, whole: bool = False
) -> Iterator[Compared]:
    """Ask each teacher again of up to `samples` images an epoch. whole: read all files, with checksums; else
    the first epoch's are enough. DataError if a difference is more than rounding."""
    for need in needs:
        part = need.part
        found = Compared(part, 0, 0, 0.0)
        numbers, epochs, some = range(part.num_files), range(need.epochs), part.images
        if not whole:
            # Of one file, so that no other is fetched.
            middle = part.num_files // 2
            numbers, epochs, some = numbers[middle:][:1], epochs[:1], part.own(middle)
        chosen = some[torch.linspace(0, len(some) - 1, min(samples, len(some))).round().long().unique()]
        for epoch in epochs:
            for number in numbers:
                own = part.own(number)
                asked = chosen[torch.isin(chosen, own)]
                kept = part.read(view.seed, epoch, number, whole)
                found.files += 1
                for images in asked.split(PICTURES):
                    pictures, bad = view.load(epoch, images)
                    good = torch.tensor([row for row in range(len(images)) if row not in bad])
                    if len(good):
                        rows = torch.searchsorted(own, images[good])
                        _compare(
                            need, ask(need, pictures[good], device).cpu(), images[good], kept, rows, found
                        )
        yield found


def _compare(need: Need, logits: Tensor, images: Tensor, kept: Kept, rows: Tensor, found: Compared) -> None:
    """logits: [b, C], what the teacher says now of images, which are `rows` of `kept`."""
    part, label_map = need.part, need.teacher.label_map.cpu()
    before = torch.from_numpy(kept.logits[rows.numpy()]).float()
    differences = best(logits, label_map, part.width)[1].float() - before
    by_class = dict(zip(label_map.tolist(), range(len(label_map)), strict=True))
    if not part.whole and len(by_class) == len(label_map):
        # The same classes, too; of those that are nearly equal another may be the last that is kept.
        classes = kept.classes[rows.numpy()].tolist()
        columns = torch.tensor([[by_class.get(c, -1) for c in row] for row in classes])
        now = torch.where(columns >= 0, logits.gather(1, columns.clamp_min(0)), torch.inf)
        differences = torch.stack([differences, now.clamp(-LARGEST, LARGEST) - before]).abs().amax(0)
    differences = differences.abs().nan_to_num(torch.inf)
    share = ROUNDING[part.about["precision"]]
    wrong = (differences > share * (1 + before.abs())).any(1)
    found.images += len(images)
    found.largest = max(found.largest, float(differences.max()))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        by = float(differences[row].max())
        raise DataError(
            f"{part.store.shown(part.folder)}: teacher '{part.teacher}' says something else of image "
            f"{int(images[row])} than is kept (by {by:.3g} in a logit; rounding is less than {share:g} and "
            "that share of it): the pictures, or a file that it reads, have changed. Delete the folder to "
            "ask anew"
        )
