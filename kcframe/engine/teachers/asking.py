"""Asks teachers ahead of training, and asks again to see whether the stored outputs are still theirs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from kcframe.engine.data.bad_images import BadImages
from kcframe.engine.data.batches import Batch, load_batches
from kcframe.engine.data.split import Split
from kcframe.engine.observer import Observer, Silent
from kcframe.engine.plugin_calls import call_for_tensor, finite
from kcframe.engine.teachers.stored_outputs import LARGEST, OutputsFile, StoredOutputs, best
from kcframe.errors import DataError, Interrupted
from kcframe.interfaces.data import Labels
from kcframe.interfaces.teacher import Teacher
from kcframe.interfaces.toolkit.randomness import image_keys

PICTURES = 256  # that a teacher sees at a time
NO_LABELS = Labels.from_lists([])  # of pictures whose labels nobody asks for
# By which logits may differ, and by that share of them: other machines round otherwise, and decode JPEG
# files otherwise. Other pictures differ by more.
ROUNDING = {"float32": 0.2, "bfloat16": 0.4}


@dataclass(frozen=True)
class Need:
    """One teacher's stored outputs, the teacher, and how many epochs of them are wanted."""

    stored: StoredOutputs
    teacher: Teacher
    epochs: int


@dataclass(frozen=True)
class View:
    """Pictures as training sees them."""

    split: Split
    seed: int

    def load(self, epoch: int, indices: Tensor) -> tuple[Tensor, dict[int, str]]:
        """(pictures, the rows that could not be read with their reasons)."""
        keys = image_keys(self.seed, epoch, indices)
        if self.split.max_bad_fraction:
            return self.split.images.load_readable(indices, keys)
        return self.split.images.load(indices, keys), {}


def fill(
    needs: Sequence[Need],
    view: View,
    device: torch.device,
    *,
    processes: int = 0,
    share: tuple[int, int] = (0, 1),
    observer: Observer | None = None,
) -> int:
    """Ask for what is missing and store it; returns how many files were written.

    processes: that load pictures ahead. share: (i, n), the i-th of n that share the work. Raises Interrupted
    once the observer says so; files that are finished stay.
    """
    observer = observer or Silent()
    units = [
        _Unit(need, epoch, number)
        for need in needs
        for epoch in range(need.epochs)
        for number in range(need.stored.num_files)
    ][share[0] :: share[1]]
    missing = {id(need): set(need.stored.missing(view.seed, need.epochs)) for need in needs}
    units = [unit for unit in units if (unit.epoch, unit.number) in missing[id(unit.need)]]
    plan = _UnitBatches(view, units)
    batches = load_batches(plan, range(len(plan.pieces)), processes)
    unreadable = BadImages(len(view.split.images), view.split.max_bad_fraction)
    done = 0
    for unit in units:
        stored, label_map = unit.need.stored, unit.need.teacher.label_map.to(device)
        classes: list[Tensor] = []
        logits: list[Tensor] = []
        for _ in range(unit.num_pieces):
            if observer.should_stop():
                raise Interrupted(f"stopped after {done} of {len(plan.pieces)} batches of teacher outputs")
            batch, images = next(batches), plan.pieces[done][1]
            unreadable.add({int(images[row]): why for row, why in batch.bad.items()}, len(images))
            top_classes, top_logits = best(
                teacher_logits(unit.need, batch.images, device), label_map, stored.width
            )
            top_logits[list(batch.bad)] = torch.nan
            if top_classes is not None:
                classes.append(top_classes)
            logits.append(top_logits)
            done += 1
            observer.step(done, len(plan.pieces), math.nan)
        named = None if stored.whole else torch.cat(classes).numpy()
        content = OutputsFile(unit.images.numpy(), named, torch.cat(logits).numpy())
        stored.write(view.seed, unit.epoch, unit.number, content)
    return len(units)


@torch.inference_mode()
def teacher_logits(need: Need, pictures: Tensor, device: torch.device) -> Tensor:
    """float32 [b, C]: a teacher's logits of pictures [b, ...], computed as in training."""
    teacher = need.teacher.to(device).eval()
    low = need.stored.about["precision"] == "bfloat16"
    with torch.autocast(device.type, dtype=torch.bfloat16) if low else nullcontext():
        shape = (len(pictures), len(teacher.label_map))
        logits = call_for_tensor(teacher, "forward", shape, pictures.to(device)).float()
    return finite(teacher, "forward", logits)


@dataclass(frozen=True)
class _Unit:
    """One file to be written."""

    need: Need
    epoch: int
    number: int

    @property
    def images(self) -> Tensor:
        return self.need.stored.images_of(self.number)

    @property
    def num_pieces(self) -> int:
        return math.ceil(len(self.images) / PICTURES)


class _UnitBatches:
    """The batches of some units, by number."""

    def __init__(self, view: View, units: Sequence[_Unit]):
        self.view = view
        self.pieces = [(u.epoch, images) for u in units for images in u.images.split(PICTURES)]

    def __getitem__(self, number: int) -> Batch:
        epoch, images = self.pieces[number]
        pictures, bad = self.view.load(epoch, images)
        return Batch(pictures, NO_LABELS, len(images), bad)


@dataclass
class Comparison:
    """Stored outputs beside those that the teacher gives when it is asked again. images: how many were
    compared. largest: the largest difference of a logit."""

    stored: StoredOutputs
    files: int
    images: int
    largest: float


def compare(
    needs: Sequence[Need], view: View, device: torch.device, samples: int, whole: bool = False
) -> Iterator[Comparison]:
    """Ask each teacher again about up to `samples` images an epoch. whole: read all files, with checksums;
    else the first epoch's are enough. DataError if a difference is more than rounding."""
    for need in needs:
        stored = need.stored
        comparison = Comparison(stored, 0, 0, 0.0)
        numbers, epochs, images = range(stored.num_files), range(need.epochs), stored.images
        if not whole:
            # Of one file, so that no other is fetched.
            middle = stored.num_files // 2
            numbers, epochs, images = numbers[middle:][:1], epochs[:1], stored.images_of(middle)
        sample = images[torch.linspace(0, len(images) - 1, min(samples, len(images))).round().long().unique()]
        for epoch in epochs:
            for number in numbers:
                _compare_file(need, view, (epoch, number, whole), sample, comparison, device=device)
        yield comparison


def _compare_file(
    need: Need,
    view: View,
    file: tuple[int, int, bool],
    sample: Tensor,
    comparison: Comparison,
    *,
    device: torch.device,
) -> None:
    """file: (epoch, number, whether to compare its checksum). sample: int64, images to ask about again."""
    epoch, number, whole = file
    in_file = need.stored.images_of(number)
    content = need.stored.read(view.seed, epoch, number, whole)
    comparison.files += 1
    for images in sample[torch.isin(sample, in_file)].split(PICTURES):
        pictures, bad = view.load(epoch, images)
        good = torch.tensor([row for row in range(len(images)) if row not in bad])
        if len(good):
            logits = teacher_logits(need, pictures[good], device).cpu()
            rows = torch.searchsorted(in_file, images[good])
            _compare_logits(need, logits, images[good], (content, rows), comparison)


def _compare_logits(
    need: Need,
    logits: Tensor,
    images: Tensor,
    before: tuple[OutputsFile, Tensor],
    comparison: Comparison,
) -> None:
    """logits: [b, C], of images, which were stored in a file's rows (`before`)."""
    content, rows = before
    stored, label_map = need.stored, need.teacher.label_map.cpu()
    stored_logits = torch.from_numpy(content.logits[rows.numpy()]).float()
    differences = best(logits, label_map, stored.width)[1].float() - stored_logits
    by_class = dict(zip(label_map.tolist(), range(len(label_map)), strict=True))
    if not stored.whole and len(by_class) == len(label_map):
        # The same classes, too; of those that are nearly equal another may be the last one stored.
        assert content.classes is not None  # they are there where not all outputs are
        classes = content.classes[rows.numpy()].tolist()
        columns = torch.tensor([[by_class.get(c, -1) for c in row] for row in classes])
        now = torch.where(columns >= 0, logits.gather(1, columns.clamp_min(0)), torch.inf)
        of_same_class = now.clamp(-LARGEST, LARGEST) - stored_logits
        differences = torch.stack([differences, of_same_class]).abs().amax(0)
    differences = differences.abs().nan_to_num(torch.inf)
    share = ROUNDING[stored.about["precision"]]
    wrong = (differences > share * (1 + stored_logits.abs())).any(1)
    comparison.images += len(images)
    comparison.largest = max(comparison.largest, float(differences.max()))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        by = float(differences[row].max())
        raise DataError(
            f"{stored.store.shown(stored.folder)}: teacher '{stored.teacher}' says something else of image "
            f"{int(images[row])} than is kept (by {by:.3g} in a logit; rounding is less than {share:g} and "
            "that share of it): the pictures, or a file that it reads, have changed. Delete the folder to "
            "ask anew"
        )
