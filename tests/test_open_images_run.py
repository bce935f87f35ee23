"""recipes/openimages-sample.yaml from its labels to its report: metadata, pictures and run directory in a
bucket that a real server serves, with every nasty picture, and faults on the way."""

from __future__ import annotations

import json

import pytest
import s3fs
from PIL import Image

import kcframe
from kcframe.assembly.source import build_source
from kcframe.cli.evaluate import evaluate_run
from kcframe.errors import KcframeError
from kcframe.pictures.stores.store import PlacedStore
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.run.storage_cost import reading_of
from kcframe.storage.run_dir import RunDir
from tests.conftest import S3_SECRET, Quiet
from tests.open_images_set import COLOURS, small_set, write


@pytest.fixture
def published(bucket):
    """The URL of a small Open Images."""
    storage = s3fs.S3FileSystem()
    for name, data in small_set().items():
        storage.pipe_file(f"{bucket}/{name}", data)
    return bucket


def recipe(published, tmp_path, *more):
    places = [
        f"data.options.metadata={published}",
        "data.options.images=" + published + "/{split}/{id}.jpg",
        f"data.options.cache={tmp_path / 'cache'}",
    ]
    return load_recipe("recipes/openimages-sample.yaml", installed(), [*places, *more])


def test_the_sample_recipe_to_its_end(published, tmp_path):
    quiet, where = Quiet(), f"{published}/run"
    results = run(recipe(published, tmp_path, "data.options.cache_gib=1"), RunDir(where), quiet)
    storage = s3fs.S3FileSystem()
    found = json.loads(storage.cat_file(f"{where}/arms/+D+SC+S base-rate/result.json"))
    assert found["bad_images"] == {"train": 6, "test": 3}
    listed = storage.cat_file(f"{where}/arms/+D+SC+S base-rate/bad_images.jsonl").decode().splitlines()
    reasons = sorted(json.loads(line)["reason"].partition(".jpg: ")[2][:40] for line in listed)
    assert reasons == sorted(
        2 * ["cannot be decoded: the file has zero byt", "cannot be decoded: it is an HTML page, n",
             "no such file (any more), or a link to no"]
    )  # fmt: skip
    taxonomy = json.loads(storage.cat_file(f"{where}/taxonomy.json"))
    assert {v["name"] for v in taxonomy["verticals"]} == {"animal", "vehicle", "drink"}
    # Colours are learned: far better than by chance, and the specialists better still or as good.
    assert results["specialists"]["mpvap"] > 80
    assert results["arms"]["+D+SC+S base-rate"]["top1"] > 80
    assert storage.exists(f"{where}/report.html")
    for file in storage.find(where):
        assert S3_SECRET.encode() not in storage.cat_file(file), file
    student = kcframe.load(where)
    (guess, *_) = student.predict([Image.new("RGB", (50, 40), COLOURS["taxi"])])[0]
    assert guess.name in COLOURS


def test_what_nobody_verified_may_be_left_out(tmp_path):
    """On this machine's files; and what `kcframe evaluate` finds is what the run found."""
    write(tmp_path / "oi")
    quiet, found = Quiet(), {}
    for unknown in ("negative", "ignore"):
        given = recipe(str(tmp_path / "oi"), tmp_path, f"data.options.unknown={unknown}")
        found[unknown] = run(given, RunDir(tmp_path / unknown), quiet)
        evaluate_run(
            str(tmp_path / unknown), None, None, (), 64, device="cpu", json_file=str(tmp_path / "e.json")
        )
        again = json.loads((tmp_path / "e.json").read_text())
        for arm, row in found[unknown]["arms"].items():
            assert again["arms"][arm]["per_vertical"] == row["per_vertical"]
        assert again["specialists"] == found[unknown]["specialists"]
    assert found["negative"]["arms"] != found["ignore"]["arms"]


@pytest.mark.parametrize("gib", [0, 1])
def test_what_reading_costs_is_what_was_said(tmp_path, monkeypatch, gib):
    """Of pictures that can all be read. The report's samples come on top."""
    write(tmp_path / "oi", bad=False)
    more = ["specialists.train.epochs=2", "student.train.epochs=3", "student.train.evaluate_every=2"]
    given = recipe(str(tmp_path / "oi"), tmp_path, *more, f"data.options.cache_gib={gib}")
    said = reading_of(given, build_source(given))
    fetched, fetch = [], PlacedStore._fetch
    monkeypatch.setattr(PlacedStore, "_fetch", lambda *own: fetched.append(fetch(*own)) or fetched[-1])
    quiet = Quiet()
    run(given, RunDir(tmp_path / "run"), quiet)
    samples = 0 if gib else len(json.loads((tmp_path / "run/samples/samples.json").read_text()))
    assert sum(each.requests for each in said.values()) == len(fetched) - samples
    assert sum(each.bytes for each in said.values()) == pytest.approx(
        sum(map(len, fetched)), rel=0.02 if gib else 0.05
    )
    if gib:
        assert len(fetched) == 60 + 24
        assert said["generalist"].requests == said["+D+SC+S base-rate"].requests == 0
    assert said["generalist"].pictures == 60 * 3 + 24 * 2


def test_what_teachers_read_before_is_said(tmp_path):
    write(tmp_path / "oi", bad=False)
    more = ["specialists.train.epochs=2", "student.train.epochs=3", "data.options.cache_gib=0"]
    given = recipe(str(tmp_path / "oi"), tmp_path, *more, f"teacher_cache.url={tmp_path}/kept")
    said = reading_of(given, build_source(given))
    assert list(said)[:3] == ["specialists", "teacher outputs", "generalist"]
    assert said["teacher outputs"].pictures == said["teacher outputs"].requests == 60 * 3


def test_a_storage_that_comes_and_goes_changes_nothing(published, tmp_path, proxy):
    """The connections are cut three times in the middle of it."""
    quiet = Quiet()
    short = ["specialists.train.epochs=2", "student.train.epochs=2"]
    expected = run(recipe(published, tmp_path, *short), RunDir(tmp_path / "a"), quiet)
    count = 0

    class CutsNowAndThen(Quiet):
        def should_stop(self):
            nonlocal count
            if self.steps in (2, 5, 9) and self.steps != count:
                count = self.steps
                proxy.go_down(0.3)
            return False

    found = run(recipe(published, tmp_path, *short), RunDir(tmp_path / "b"), CutsNowAndThen())
    assert count == 9
    assert proxy.refused
    assert found == expected


def test_a_busy_and_slow_storage_changes_nothing(published, tmp_path, proxy):
    """Every twentieth read is answered with 503, every 99th is reset, and all of them take their time."""
    short = ["specialists.train.epochs=1", "student.train.epochs=2"]
    quiet = Quiet()
    expected = run(recipe(published, tmp_path, *short), RunDir(tmp_path / "a"), quiet)
    proxy.busy_every, proxy.reset_every, proxy.slow = 20, 99, 0.005
    found = run(recipe(published, tmp_path, *short), RunDir(tmp_path / "b"), quiet)
    assert proxy.busy > 10
    assert proxy.resets > 2
    assert found == expected


def test_a_bucket_that_is_not_there_is_one_clear_error(published, tmp_path):
    nowhere = [
        ("data.options.metadata=s3://nobody-has-this/x", "s3://nobody-has-this/x"),
        ("data.options.images=s3://nobody-has-this/{split}/{id}.jpg", "s3://nobody-has-this/"),
    ]
    for change, named in nowhere:
        quiet = Quiet()
        with pytest.raises(KcframeError) as caught:
            run(recipe(published, tmp_path, change), RunDir(tmp_path / "r"), quiet)
        assert named in str(caught.value)
        assert len(str(caught.value)) < 600
        assert S3_SECRET not in str(caught.value)
