"""What teachers say, kept and read again: against teachers that are asked live."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from kcframe.engine.data.split import Split
from kcframe.engine.observer import Silent
from kcframe.engine.teachers import stored_outputs
from kcframe.engine.teachers.asking import PICTURES, Need, View, compare, fill
from kcframe.engine.teachers.cached_router import CachedRouter
from kcframe.engine.teachers.identity import data_facts, identity, looks_at_each_alone
from kcframe.engine.teachers.routing import Router
from kcframe.engine.teachers.stored_outputs import Epoch, OutputsFile, StoredOutputs
from kcframe.errors import DataError, Interrupted, PluginError, TrainingError
from kcframe.interfaces.data import ImageSet, Labels
from kcframe.interfaces.teacher import Teacher
from kcframe.interfaces.toolkit.log_odds import ToLogits
from kcframe.interfaces.toolkit.randomness import image_keys, keyed_uniforms
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

CPU = torch.device("cpu")
# Class 2 stands in two verticals, nobody knows class 5.
TAXONOMY = Taxonomy.build({"a": ["0", "1", "2"], "b": ["2", "3"], "c": ["4", "5"]})
LABELS = [[0], [3], [2], [4, 5], [0, 3], [5], [1], [2, 4]] * 7


class Drawn(ImageSet):
    """Pictures of two pixels, drawn from their keys. Those in `bad` cannot be read."""

    def __init__(self, labels=LABELS, bad=()):
        self.labels, self.bad = Labels.from_lists(labels), set(bad)

    def load(self, indices, keys):
        return (keyed_uniforms(keys, 2) + indices[:, None] / 100).view(-1, 1, 1, 2)

    def load_readable(self, indices, keys):
        bad = {row: "bad" for row, index in enumerate(indices.tolist()) if index in self.bad}
        return self.load(indices, keys), bad


class Linear(nn.Module):
    """Logits that are different for each picture; counts the pictures that it is shown."""

    def __init__(self, outputs: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(2, outputs, generator=generator) * 4)
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return images.flatten(1) @ self.weight


def teachers():
    def teacher(name, label_map, seed):
        network = Linear(len(label_map), seed)
        return Teacher(
            name, network, torch.tensor(label_map), channels=1, mean=(0.0,), std=(1.0,), input_size=None
        )

    return [teacher("a", [2, 0, 1], 1), teacher("b", [2, 3], 2), teacher("c", [4], 3)]


def needs_of(url, asked, images, width=100, epochs=2, settings=None):
    facts = data_facts(settings or {}, images.labels, TAXONOMY)
    found = []
    for teacher in asked:
        known = torch.zeros(TAXONOMY.num_classes, dtype=torch.bool)
        known[teacher.label_map] = True
        own = images.labels.rows()[known[images.labels.classes.long()]].unique()
        about = identity(teacher, facts, "float32")
        outputs = len(teacher.label_map)
        part = StoredOutputs(RunDir(url), about, own, min(width, outputs), outputs)
        found.append(Need(part, teacher, epochs))
    return found


@pytest.fixture(params=["folder", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "kept") if request.param == "folder" else f"memory://kept-{tmp_path.name}"


@pytest.mark.parametrize(
    ("width", "num_kept"),
    [
        pytest.param(100, None, id="all outputs stored and used"),
        pytest.param(2, 2, id="as many stored as used"),
        pytest.param(3, 2, id="more stored than used"),
    ],
)
def test_what_is_kept_is_what_live_teachers_say(url, width, num_kept, monkeypatch):
    monkeypatch.setattr(stored_outputs, "ROWS", 5)  # several files an epoch
    images, view = Drawn(), View(Split.whole(Drawn()), 3)
    kept = needs_of(url, teachers(), images, width)
    assert fill(kept, view, CPU) == sum(need.stored.num_files for need in kept) * 2
    assert kept[0].stored.num_files > 3
    asked = teachers()
    live = Router(asked, TAXONOMY.num_classes, torch.sigmoid, num_kept, CPU)
    again = CachedRouter(
        teachers(),
        TAXONOMY.num_classes,
        torch.sigmoid,
        num_kept,
        CPU,
        stored=[n.stored for n in kept],
        seed=3,
    )
    for epoch in (1, 0):
        for indices in torch.randperm(len(LABELS)).split(9):
            pictures = images.load(indices, image_keys(3, epoch, indices))
            labels = images.labels.take(indices)
            dense = []
            for router in (live, again):
                rows, classes, values = router(pictures, labels, None, epoch, indices)
                pairs = set(zip(rows.tolist(), classes.tolist(), strict=True))
                assert len(pairs) == len(rows)  # each once
                whole = torch.zeros(len(indices), TAXONOMY.num_classes)
                whole[rows, classes] = values
                dense.append(whole)
            torch.testing.assert_close(dense[1], dense[0], rtol=0, atol=1.2e-4)
    assert (live.images_routed, live.teacher_images) == (again.images_routed, again.teacher_images)


def test_float16_logits_keep_every_probability_within_what_is_said():
    logits = torch.linspace(-30, 30, 100_001)
    assert float((logits.half().float().sigmoid() - logits.sigmoid()).abs().max()) < 1.1e-4
    assert float((logits.sigmoid().half().float() - logits.sigmoid()).abs().max()) > 2.4e-4


def test_work_that_is_shared_or_stopped_is_done_once(url, monkeypatch):
    monkeypatch.setattr(stored_outputs, "ROWS", 5)
    view, alone = View(Split.whole(Drawn()), 0), teachers()
    whole = needs_of(f"{url}-whole", alone, view.split.images)
    fill(whole, view, CPU)
    told = []

    class StopsAtFour(Silent):
        def step(self, step, num_steps, loss):
            told.append(step)

        def should_stop(self):
            return len(told) == 4

    first = needs_of(url, teachers(), view.split.images)
    with pytest.raises(Interrupted, match=r"stopped after 4 of \d+ batches"):
        fill(first, view, CPU, share=(0, 2), observer=StopsAtFour())
    assert told[-1] == 4
    asked = teachers()
    rest = needs_of(url, asked, view.split.images)
    fill(rest, view, CPU, share=(1, 2))
    fill(rest, view, CPU, share=(0, 2))
    # What was finished before the stop was not asked again.
    assert sum(t.network.seen for t in asked) == sum(t.network.seen for t in alone) - 4 * 5
    assert fill(rest, view, CPU) == 0
    for one, other in zip(whole, rest, strict=True):
        for epoch in range(2):
            for number in range(one.stored.num_files):
                a, b = one.stored.read(0, epoch, number), other.stored.read(0, epoch, number, whole=True)
                assert np.array_equal(a.classes, b.classes)
                assert np.array_equal(a.logits, b.logits)


def test_processes_that_load_pictures_change_nothing(tmp_path):
    view = View(Split.whole(Drawn()), 0)
    one, other = (needs_of(tmp_path / name, teachers(), view.split.images) for name in "ab")
    fill(one, view, CPU)
    fill(other, view, CPU, processes=1)
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.stored.read(0, 1, 0).logits, b.stored.read(0, 1, 0).logits)


def test_what_asking_again_finds(url):
    view = View(Split.whole(Drawn()), 0)
    needs = needs_of(url, teachers(), view.split.images, width=2)
    fill(needs, view, CPU)
    found = list(compare(needs, view, CPU, 10, whole=True))
    assert [(c.files, c.images) for c in found] == [(2, 20)] * 3
    assert all(c.largest < 0.01 for c in found)
    # The same teachers and labels, other pictures under the same names.
    changed = Drawn()
    changed.load = lambda indices, keys: Drawn().load(indices, keys) + 0.3
    with pytest.raises(DataError, match=r"teacher 'a' says something else of image \d+ than is kept"):
        list(compare(needs, View(Split.whole(changed), 0), CPU, 4))


def test_outputs_that_are_nearly_equal_may_change_places(tmp_path):
    """Another machine rounds otherwise: two classes of which only one is kept are equal to 1e-6."""
    view, (teacher, *_) = View(Split.whole(Drawn()), 0), teachers()
    weight = teacher.network.weight.data
    weight[:, 0], weight[:, 2] = weight[:, 1] + 1e-6, weight[:, 1] - 9
    needs = needs_of(tmp_path, [teacher], view.split.images, width=1)
    fill(needs, view, CPU)
    assert (needs[0].stored.read(0, 0, 0).classes == 2).all()
    weight[:, 0] -= 2e-6
    assert next(compare(needs, view, CPU, 50)).largest < 0.01


def test_a_new_teacher_adds_its_part_and_the_others_stay(url):
    view, asked = View(Split.whole(Drawn()), 0), teachers()
    fill(needs_of(url, asked[:2], view.split.images), view, CPU)
    seen = [t.network.seen for t in asked]
    fill(needs_of(url, asked, view.split.images), view, CPU)
    assert [t.network.seen for t in asked][:2] == seen[:2]
    assert asked[2].network.seen > 0
    assert len(RunDir(url).folders("")) == 3


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.network.weight.data.add_(1e-3), id="weights"),
        pytest.param(lambda t: setattr(t, "mean", (0.1,)), id="mean"),
        pytest.param(lambda t: setattr(t, "label_map", t.label_map.flip(0)), id="label map"),
        pytest.param(lambda t: setattr(t, "name", "other"), id="name"),
        pytest.param(lambda t: setattr(t, "std", (2.0,)), id="std"),
        pytest.param(lambda t: setattr(t, "input_size", 3), id="input size"),
        pytest.param(lambda t: setattr(t, "channels", 3), id="channels"),
        pytest.param(lambda t: setattr(t, "fingerprint", "of a file"), id="fingerprint"),
        pytest.param(lambda t: setattr(t, "columns", torch.tensor([0, 1, 2])), id="columns"),
        pytest.param(
            lambda t: setattr(t, "network", nn.Sequential(t.network, ToLogits("probabilities", 3, "u"))),
            id="what makes logits",
        ),
        pytest.param(lambda t: t.add_module("more", nn.Linear(2, 2)), id="a module beside the network"),
    ],
)
def test_another_teacher_has_another_folder(change):
    view, (one, *_), (other, *_) = View(Split.whole(Drawn()), 0), teachers(), teachers()
    folder = needs_of("x", [one], view.split.images)[0].stored.folder
    assert needs_of("x", [other], view.split.images)[0].stored.folder == folder
    change(other)
    assert needs_of("x", [other], view.split.images)[0].stored.folder != folder


def test_how_a_network_makes_logits_is_part_of_what_it_is():
    (one, *_), (other, *_), images = teachers(), teachers(), Drawn()
    one.network = nn.Sequential(one.network, ToLogits("softmax-logits", 3, "u"))
    other.network = nn.Sequential(other.network, ToLogits("logits", 3, "u"))
    (a,), (b,) = needs_of("x", [one], images), needs_of("x", [other], images)
    assert a.stored.folder != b.stored.folder


class Session(nn.Module):
    """Weights that torch does not hold."""

    def __init__(self, said):
        super().__init__()
        self.said = [said]

    def forward(self, images):
        return self.said[0].expand(len(images), -1)


def test_weights_that_torch_does_not_hold_need_a_fingerprint():
    def teacher(said, fingerprint=None):
        return Teacher(
            "onnx",
            Session(torch.tensor([said])),
            torch.tensor([0]),
            channels=1,
            mean=(0.0,),
            std=(1.0,),
            input_size=None,
            fingerprint=fingerprint,
        )

    with pytest.raises(PluginError, match="torch holds no weights of its network.*fingerprint"):
        needs_of("x", [teacher(1.0)], Drawn())
    a, b = needs_of("x", [teacher(1.0, "sha a"), teacher(-5.0, "sha b")], Drawn())
    assert a.stored.folder != b.stored.folder


def test_no_secret_is_written_down(tmp_path):
    (teacher, *_) = teachers()
    teacher.name = "https://me:hunter2@host/w.safetensors?token=hunter2"
    settings = {"options": {"root": ["s3://me:hunter2@bucket/x"]}}
    view = View(Split.whole(Drawn()), 0)
    fill(needs_of(tmp_path, [teacher], view.split.images, settings=settings), view, CPU)
    (folder,) = tmp_path.iterdir()
    assert "hunter2" not in folder.name + (folder / "manifest.json").read_text()


def test_other_data_have_another_folder():
    (teacher, *_) = teachers()
    folders = {
        needs_of("x", [teacher], images, settings=settings)[0].stored.folder
        for images in (Drawn(), Drawn(LABELS[::-1]))
        for settings in ({"views": 1}, {"views": 2})
    }
    assert len(folders) == 4


def test_pictures_that_cannot_be_read(tmp_path):
    images = Drawn(bad=[0, 8])
    view = View(Split.whole(images, 0.1), 0)
    needs = needs_of(tmp_path, teachers(), images)
    fill(needs, view, CPU)
    assert np.isnan(needs[0].stored.read(0, 0, 0).logits).all(1).sum() == 2
    assert next(compare(needs, view, CPU, 100, whole=True)).images == 2 * (len(needs[0].stored.images) - 2)
    epoch = Epoch(needs[0].stored, 0, 0)
    assert epoch.of(torch.tensor([2, 4]))[1].isfinite().all()
    with pytest.raises(DataError, match="image 8 could not be read when this teacher was asked"):
        epoch.of(torch.tensor([2, 8]))


def test_unreadable_pictures_of_later_batches_and_too_many_of_them(tmp_path):
    last = 2 * PICTURES
    images = Drawn([[0]] * (last + 3), bad=[last + 1])
    needs = needs_of(tmp_path / "a", teachers()[:1], images, epochs=1)
    fill(needs, View(Split.whole(images, 0.01), 0), CPU)
    kept = needs[0].stored.read(0, 0, 0)
    assert np.isnan(kept.logits).any(1).nonzero()[0].tolist() == [last + 1]
    images = Drawn([[0]] * (last + 3), bad=range(100, 300))  # as if a disk were missing
    needs = needs_of(tmp_path / "b", teachers()[:1], images, epochs=1)
    with pytest.raises(DataError, match="cannot be used; data.options.max_bad_fraction: 0.01 allows 5"):
        fill(needs, View(Split.whole(images, 0.01), 0), CPU)
    assert needs[0].stored.missing(0, 1) == [(0, 0)]


def test_all_outputs_of_many_take_files_of_some_images_without_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_outputs, "NUMBERS", 60)
    view = View(Split.whole(Drawn()), 0)
    whole, some = (needs_of(tmp_path, teachers()[:1], view.split.images, width)[0] for width in (3, 2))
    assert (whole.stored.rows, some.stored.rows) == (20, 30)
    fill([whole, some], view, CPU)
    assert whole.stored.read(0, 0, 0).classes is None
    assert some.stored.read(0, 0, 0).classes.shape == (30, 2)
    assert [c.images for c in compare([whole, some], view, CPU, 9, whole=True)] == [18, 18]


def test_damaged_files_are_said(tmp_path):
    view = View(Split.whole(Drawn()), 0)
    needs = needs_of(tmp_path, teachers(), view.split.images, width=2)
    fill(needs, view, CPU)
    part = needs[0].stored
    first, second = (tmp_path / part.folder / f"seed-0/epoch-000{e}/00000.arrow" for e in (0, 1))
    good = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match="epoch-0000/00000.arrow: holds other outputs than its name says"):
        part.read(0, 0, 0)
    first.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match="00000.arrow: damaged"):
        part.read(0, 0, 0)
    kept = part.read(0, 1, 0)
    place = good.index(part_bytes := OutputsFile(*part_of(good)).logits.tobytes()) + len(part_bytes) // 2
    first.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    assert not np.array_equal(part.read(0, 0, 0).logits, kept.logits)
    with pytest.raises(DataError, match="its checksum is wrong"):
        part.read(0, 0, 0, whole=True)
    first.unlink()
    with pytest.raises(DataError, match="no such file"):
        part.read(0, 0, 0)
    assert part.missing(0, 2) == [(0, 0)]


def part_of(data: bytes):
    batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
    return (
        batch["image"].to_numpy(),
        batch["classes"].flatten().to_numpy(),
        batch["logits"].flatten().to_numpy(),
    )


def test_an_image_that_nobody_asked_about_is_said(tmp_path):
    view = View(Split.whole(Drawn()), 0)
    needs = needs_of(tmp_path, teachers(), view.split.images)
    fill(needs, view, CPU)
    for image in (1, len(LABELS) + 5):
        with pytest.raises(DataError, match=f"has no outputs of image {image}, which this teacher is asked"):
            Epoch(needs[0].stored, 0, 0).of(torch.tensor([0, image]))


def test_temperatures_of_verticals(tmp_path):
    """A pacing's: of one vertical's teacher as if live; where a teacher's verticals differ, only if all that
    it says is kept."""
    view = View(Split.whole(Drawn()), 0)

    def soften(logits, scale):
        return (logits / scale).sigmoid()

    scale = torch.tensor([2.0, 2.0, 2.0, 3.0, 5.0, 1.0])
    for width in (1, 100):
        needs = needs_of(tmp_path, teachers(), view.split.images, width)
        fill(needs, view, CPU)
        router = CachedRouter(teachers(), 6, soften, None, CPU, stored=[n.stored for n in needs], seed=0)
        indices = torch.tensor([0, 6])
        live = Router(teachers(), 6, soften, width if width == 1 else None, CPU)
        pictures = view.split.images.load(indices, image_keys(0, 0, indices))
        said = [
            r(pictures, view.split.images.labels.take(indices), scale, 0, indices) for r in (router, live)
        ]
        for one, other in zip(*said, strict=True):
            torch.testing.assert_close(one.float(), other.float(), rtol=0, atol=1.2e-4)
        two = torch.tensor([1])
        if width == 1:
            with pytest.raises(TrainingError, match="teacher 'b' knows classes of verticals with different"):
                router(None, view.split.images.labels.take(two), scale, 0, two)
        else:
            router(None, view.split.images.labels.take(two), scale, 0, two)


def test_what_looks_at_each_logit_alone():
    assert looks_at_each_alone(lambda x, scale=1.0: (x / scale).sigmoid())
    assert looks_at_each_alone(lambda x, scale=1.0: (x / (4 * scale)).sigmoid())
    for soften in (
        lambda x, scale=1.0: (x / scale).softmax(1),
        lambda x, scale=1.0: (-x / scale).sigmoid(),
        lambda x, scale=1.0: (x / scale).square(),
        lambda x, scale=1.0: (x - x.mean(0)).sigmoid(),  # looks at the other images
        lambda x, scale=1.0: (x - x.amin(1, keepdim=True)).sigmoid(),
        lambda x, scale=1.0: x.softmax(1) if scale != 1.0 else x.sigmoid(),
        lambda x: x @ torch.ones(5, 5),  # knows how many outputs its teacher has
    ):
        assert not looks_at_each_alone(soften)


def test_one_teacher_names_a_class_twice(tmp_path):
    (teacher, *_) = teachers()
    teacher.label_map = torch.tensor([2, 0, 2])
    view = View(Split.whole(Drawn()), 0)
    needs = needs_of(tmp_path, [teacher], view.split.images, width=2)
    fill(needs, view, CPU)
    list(compare(needs, view, CPU, 10, whole=True))
    router = CachedRouter([teacher], 6, torch.sigmoid, 2, CPU, stored=[needs[0].stored], seed=0)
    indices = torch.tensor([0, 2, 4])
    rows, classes, _ = router(None, view.split.images.labels.take(indices), None, 0, indices)
    assert len(set(zip(rows.tolist(), classes.tolist(), strict=True))) == len(rows)


def test_more_pictures_than_a_teacher_sees_at_a_time(tmp_path):
    images = Drawn([[0]] * (2 * PICTURES + 3))
    needs = needs_of(tmp_path, teachers()[:1], images, epochs=1)
    fill(needs, View(Split.whole(images), 0), CPU)
    assert len(needs[0].stored.read(0, 0, 0).images) == 2 * PICTURES + 3
