"""Images that cannot be read: what stands for them, what is listed, and when it is too many."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from PIL import Image

from kcframe.assembly.source import build_source
from kcframe.engine.data.bad_images import SURELY, BadImages, load_in_full
from kcframe.engine.data.batches import BatchPlan
from kcframe.engine.data.sampler import Sampler
from kcframe.engine.data.split import Split
from kcframe.engine.world import World
from kcframe.errors import DataError, Interrupted
from kcframe.interfaces.data import ImageSet, Labels
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir
from tests.conftest import TINY, Quiet


class Numbers(ImageSet):
    """Image i is a picture of the number i; some cannot be read."""

    def __init__(self, count, bad=()):
        self.labels = Labels.from_lists([[0]] * count)
        self.bad = set(bad)

    def load(self, indices, keys):
        raise AssertionError("not asked where images may be bad")

    def load_readable(self, indices, keys):
        images = indices.float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        return images, {row: f"{i}: bad" for row, i in enumerate(indices.tolist()) if i in self.bad}


ORDER = torch.tensor([4, 5, 1, 3, 7, 8, 0, 2, 6])


def test_the_next_of_the_epoch_stands_for_it_with_its_label():
    pictures, stands, bad = load_in_full(Numbers(9, bad=(3, 7, 6)), ORDER[2:5], ORDER, lambda some: some)
    # 1 is good; after 3 and 7 the next good one is 8; nobody looked at 6.
    assert stands.tolist() == [1, 8, 8]
    assert pictures[:, 0, 0, 0].tolist() == [1, 8, 8]
    assert bad == {3: "3: bad", 7: "7: bad"}
    # The last of the epoch is followed by the first.
    _, stands, bad = load_in_full(Numbers(9, bad=(6, 4)), ORDER[8:], ORDER, lambda some: some)
    assert stands.tolist() == [5]
    assert bad == {6: "6: bad", 4: "4: bad"}


def test_what_stands_for_what_does_not_depend_on_the_workers():
    images = Numbers(40, bad=(1, 2, 3, 17, 18, 30))
    sampler = Sampler(torch.arange(40), 10, seed=3)
    split = Split.whole(images, max_bad_fraction=0.5)
    one = [BatchPlan(split, sampler, 3)[step].images[:, 0, 0, 0] for step in range(4)]
    for step in range(4):
        parts = [BatchPlan(split, sampler, 3, rank, 3)[step].images[:, 0, 0, 0] for rank in range(3)]
        assert torch.cat(parts).tolist() == one[step].tolist()


def test_many_bad_images_in_a_row_are_an_error():
    every = Numbers(60, bad=range(50))
    with pytest.raises(DataError, match="no image near this one can be used either: 0: bad"):
        load_in_full(every, torch.tensor([0]), torch.arange(60), lambda some: some)


def test_a_share_of_them_is_allowed_and_each_counts_once():
    bad = BadImages(200, 0.01)
    for _ in range(5):
        bad.add({3: "x", 4: "y"}, 20)
    with pytest.raises(
        DataError, match=r"3 images, 3 of the last 120, cannot.*0.01 allows 2 of the 200; the first: x"
    ):
        bad.add({5: "z"}, 20)


def test_what_an_earlier_process_has_listed_says_nothing_of_now(tmp_path):
    run_dir = RunDir(tmp_path)
    before = BadImages(9_000_000, 0.01)
    before.add(dict.fromkeys(range(1000), "gone"), 100_000)
    before.write(run_dir, "arms/a", 0)
    again = BadImages(9_000_000, 0.01)
    again.read(run_dir, "arms/a", 0)
    again.add({5: "gone"}, SURELY)
    assert len(again.reasons) == 1000


def test_when_nearly_all_are_bad_nobody_waits_for_the_share():
    bad = BadImages(9_000_000, 0.01)
    with pytest.raises(DataError, match=f"{SURELY // 2 + 1} of the last {SURELY}, cannot"):
        bad.add(dict.fromkeys(range(SURELY // 2 + 1), "gone"), SURELY)


def test_all_workers_images_are_counted_together_each_once():
    """Three workers: this one has met 1 and 2, the others 2 and 7."""

    def others_too(tensor):
        if len(tensor) == 1:
            tensor += 1  # somebody has met one
        else:
            tensor[[2, 7]] += 1

    world = World(0, 3, all_reduce=others_too)
    for limit, total in ((0.3, 3), (0.2, None)):
        bad = BadImages(10, limit)
        bad.add({1: "a.jpg: gone", 2: "b.jpg: gone"}, 5)
        if total is not None:
            bad.count(world)
            assert bad.total == total
        else:
            with pytest.raises(DataError, match="3 images, of all 3 workers, cannot.*0.2 allows 2 of the 10"):
                bad.count(world)


def test_the_lists_of_workers_that_are_gone_are_read_too(tmp_path):
    run_dir = RunDir(tmp_path)
    for rank in range(5):
        bad = BadImages(100, 0.5)
        bad.add({rank: "gone"}, 10)
        bad.write(run_dir, "arms/a", rank)
    read = []
    for rank in range(2):
        bad = BadImages(100, 0.5)
        bad.read(run_dir, "arms/a", rank, 2)
        read.append(sorted(bad.reasons))
    assert read == [[0, 2, 4], [1, 3]]


@pytest.fixture
def spoiled(tmp_path):
    """A recipe on files of which some are bad, and their names."""
    for split, count in (("train", 12), ("test", 6)):
        for vertical, name in (("a", "x"), ("a", "y"), ("b", "z")):
            folder = tmp_path / "data" / split / vertical / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (12, 12), (20 * number, 99, 7)).save(folder / f"{number:02d}.png")
    bad = ["train/a/x/03.png", "train/b/z/07.png", "test/a/y/01.png"]
    for name in bad[:2]:
        (tmp_path / "data" / name).write_bytes(b"<!doctype html>")
    (tmp_path / "data" / bad[2]).write_bytes(b"")

    def write(fraction, **data):
        options = {"root": str(tmp_path / "data"), "image_size": 8, "max_bad_fraction": fraction}
        recipe = TINY | {"data": {"name": "image-folder", "options": options | data}}
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe))
        return load_recipe(str(file), installed())

    return write, bad


def test_a_run_skips_counts_and_lists_them(spoiled, tmp_path):
    write, bad = spoiled
    recipe, quiet, folder = write(0.1), Quiet(), tmp_path / "run"
    results = run(recipe, RunDir(folder), quiet)
    listed = [
        json.loads(line) for line in (folder / "arms/student/bad_images.jsonl").read_text().splitlines()
    ]
    train = build_source(recipe).split("train")
    assert {line["image"]: line["reason"] for line in listed} == {
        index: f"{train.name(index)}: cannot be decoded: it is an HTML page, not a picture: the download "
        "went wrong"
        for index in range(len(train))
        if train.name(index).endswith(tuple(bad[:2]))
    }
    found = json.loads((folder / "arms/student/result.json").read_text())
    assert found["bad_images"] == {"train": 2, "test": 1}
    # 5 of y's test pictures were measured on.
    assert results["arms"]["student"]["per_vertical"]["a"]["images"] == 11
    # A specialist counts its own.
    assert json.loads((folder / "specialists/a/result.json").read_text())["bad_images"] == {
        "train": 1,
        "test": 1,
    }


def test_an_interrupted_run_lists_the_same_and_learns_the_same(spoiled, tmp_path):
    write, _ = spoiled
    recipe, quiet = write(0.1), Quiet()
    whole = run(recipe, RunDir(tmp_path / "whole"), quiet)
    stopped = Quiet(stop_at=quiet.steps - 2)
    with pytest.raises(Interrupted):
        run(recipe, RunDir(tmp_path / "cut"), stopped)
    again = Quiet()
    assert run(recipe, RunDir(tmp_path / "cut"), again) == whole
    for arm in ("generalist", "student"):
        name = f"arms/{arm}/bad_images.jsonl"
        lists = [sorted((tmp_path / where / name).read_text().splitlines()) for where in ("whole", "cut")]
        assert lists[0] == lists[1]


def test_more_than_allowed_stop_the_run(spoiled, tmp_path):
    write, bad = spoiled
    quiet = Quiet()
    with pytest.raises(DataError, match="1 images, 1 of the last 12, cannot.*0.03 allows 0 of the 18"):
        run(write(0.03, threads=2), RunDir(tmp_path / "r"), quiet)
    # And without leave the first one is an error, as ever.
    with pytest.raises(DataError, match=f"{bad[0]}: cannot be decoded.*; replace or remove it"):
        run(write(0.0), RunDir(tmp_path / "r0"), quiet)
