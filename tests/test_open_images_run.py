"""recipes/openimages-sample.yaml from its labels to its report: metadata, pictures and run directory in a
bucket that a real server serves, with every nasty picture, and faults on the way."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import s3fs
from PIL import Image

import kcframe
from kcframe.assemble import build_source
from kcframe.builtin.data.stores.store import PlacedStore
from kcframe.commands.evaluate import evaluate_run
from kcframe.commands.reading import reading_of
from kcframe.errors import KcframeError
from kcframe.pipeline import run
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run_dir import RunDir
from tests.conftest import S3_SECRET, Quiet

PUBLISHED = Path(__file__).parent / "builtin" / "open_images"
COLOURS = {
    "sparrow": (200, 60, 30), "tortoise": (40, 160, 40), "taxi": (230, 210, 20), "wine": (120, 10, 60),
}  # fmt: skip


@pytest.fixture
def published(bucket):
    """The URL of a small Open Images."""
    storage = s3fs.S3FileSystem()
    for name, data in small_set().items():
        storage.pipe_file(f"{bucket}/{name}", data)
    return bucket


def small_set(bad: bool = True) -> dict[str, bytes]:
    """Files by name: the published descriptions and hierarchy, labels, pictures of colours, nine bad ones."""
    draws, noise = random.Random(1), np.random.default_rng(1)
    files = {n: (PUBLISHED / n).read_bytes() for n in ("class-descriptions.csv", "bbox_hierarchy.json")}
    mids = {row[1]: row[0] for row in csv.reader(io.StringIO(files["class-descriptions.csv"].decode()))}
    for split, count in (("train", 60), ("validation", 24)):
        labels, rotations = ["ImageID,Source,LabelName,Confidence"], ["ImageID,Subset,Rotation"]
        for number in range(count):
            image = f"{draws.getrandbits(64):016x}"
            shown = draws.sample(list(COLOURS), 1 + number % 2)
            absent = draws.choice([name for name in COLOURS if name not in shown])
            labels += [f"{image},verification,{mids[name]},1" for name in shown]
            labels.append(f"{image},verification,{mids[absent]},0")
            rotations.append(f"{image},{split},{90 * (number % 4) or ''}")
            pixels = noise.normal(0, 25, (40, 48, 3)) + np.array(COLOURS[shown[0]])
            if len(shown) == 2:
                pixels[20:] += np.array(COLOURS[shown[1]]) - np.array(COLOURS[shown[0]])
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            data = as_file(picture, number if bad else 17)
            if data is not None:
                files[f"{split}/{image}.jpg"] = data
        files[f"{split}-annotations-human-imagelabels.csv"] = "\n".join(labels).encode()
        files[f"{split}-images-with-labels-with-rotation.csv"] = "\n".join(rotations).encode()
    return files


def as_file(picture: Image.Image, number: int) -> bytes | None:
    """A picture in one of many formats under the name of a JPEG; None: missing."""
    buffer = io.BytesIO()
    kind = number % 30
    if kind == 7:
        return b""
    if kind == 11:
        return b"<!doctype html><h1>403</h1>"
    if kind == 13:
        return None
    if kind == 17:
        picture.convert("CMYK").save(buffer, "JPEG")
    elif kind == 19:
        picture.convert("L").save(buffer, "JPEG")
    elif kind == 23:
        picture.quantize(8).convert("P").save(buffer, "PNG")
    elif kind == 29:
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(buffer, "JPEG", exif=exif)
    else:
        picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def recipe(published, tmp_path, *more):
    places = [
        f"data.options.metadata={published}",
        "data.options.images=" + published + "/{split}/{id}.jpg",
        f"data.options.cache={tmp_path / 'cache'}",
    ]
    return load_recipe("recipes/openimages-sample.yaml", installed(), [*places, *more])


def test_the_sample_recipe_to_its_end(published, tmp_path):
    quiet, where = Quiet(), f"{published}/run"
    results = run(recipe(published, tmp_path), RunDir(where), quiet, quiet.say)
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
    assert results["arms"]["+D+SC+S base-rate"]["top1"] > 60
    assert storage.exists(f"{where}/report.html")
    for file in storage.find(where):
        assert S3_SECRET.encode() not in storage.cat_file(file), file
    student = kcframe.load(where)
    (guess, *_) = student.predict([Image.new("RGB", (50, 40), COLOURS["taxi"])])[0]
    assert guess.name in COLOURS


def test_what_nobody_verified_may_be_left_out(tmp_path):
    """On this machine's files; and what `kcframe evaluate` finds is what the run found."""
    for name, data in small_set().items():
        (tmp_path / "oi" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "oi" / name).write_bytes(data)
    quiet, found = Quiet(), {}
    for unknown in ("negative", "ignore"):
        given = recipe(str(tmp_path / "oi"), tmp_path, f"data.options.unknown={unknown}")
        found[unknown] = run(given, RunDir(tmp_path / unknown), quiet, quiet.say)
        evaluate_run(str(tmp_path / unknown), None, None, (), 64, "cpu", str(tmp_path / "e.json"), None)
        again = json.loads((tmp_path / "e.json").read_text())
        for arm, row in found[unknown]["arms"].items():
            assert again["arms"][arm]["per_vertical"] == row["per_vertical"]
        assert again["specialists"] == found[unknown]["specialists"]
    assert found["negative"]["arms"] != found["ignore"]["arms"]


@pytest.mark.parametrize("gib", [0, 1])
def test_what_reading_costs_is_what_was_said(tmp_path, monkeypatch, gib):
    """Of pictures that can all be read. The report's samples come on top."""
    for name, data in small_set(bad=False).items():
        (tmp_path / "oi" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "oi" / name).write_bytes(data)
    more = ["specialists.train.epochs=2", "student.train.epochs=3", "student.train.evaluate_every=2"]
    given = recipe(str(tmp_path / "oi"), tmp_path, *more, f"data.options.cache_gib={gib}")
    said = reading_of(given, build_source(given))
    fetched, fetch = [], PlacedStore._fetch
    monkeypatch.setattr(PlacedStore, "_fetch", lambda *own: fetched.append(fetch(*own)) or fetched[-1])
    quiet = Quiet()
    run(given, RunDir(tmp_path / "run"), quiet, quiet.say)
    samples = 0 if gib else len(json.loads((tmp_path / "run/samples/samples.json").read_text()))
    assert sum(each.requests for each in said.values()) == len(fetched) - samples
    assert sum(each.bytes for each in said.values()) == pytest.approx(
        sum(map(len, fetched)), rel=0.02 if gib else 0.05
    )
    if gib:
        assert len(fetched) == 60 + 24
        assert said["generalist"].requests == said["+D+SC+S base-rate"].requests == 0
    assert said["generalist"].pictures == 60 * 3 + 24 * 2


def test_a_storage_that_comes_and_goes_changes_nothing(published, tmp_path, proxy):
    """The connections are cut three times in the middle of it."""
    quiet = Quiet()
    short = ["specialists.train.epochs=2", "student.train.epochs=2"]
    expected = run(recipe(published, tmp_path, *short), RunDir(tmp_path / "a"), quiet, quiet.say)
    again = Quiet()
    count = 0

    def cut_now_and_then():
        nonlocal count
        if again.steps in (2, 5, 9) and again.steps != count:
            count = again.steps
            proxy.go_down(0.3)
        return False

    found = run(
        recipe(published, tmp_path, *short), RunDir(tmp_path / "b"), again, again.say, cut_now_and_then
    )
    assert count == 9
    assert proxy.refused
    assert found == expected


def test_a_busy_and_slow_storage_changes_nothing(published, tmp_path, proxy):
    """Every twentieth read is answered with 503, every 99th is reset, and all of them take their time."""
    short = ["specialists.train.epochs=1", "student.train.epochs=2"]
    quiet = Quiet()
    expected = run(recipe(published, tmp_path, *short), RunDir(tmp_path / "a"), quiet, quiet.say)
    proxy.busy_every, proxy.reset_every, proxy.slow = 20, 99, 0.005
    found = run(recipe(published, tmp_path, *short), RunDir(tmp_path / "b"), quiet, quiet.say)
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
            run(recipe(published, tmp_path, change), RunDir(tmp_path / "r"), quiet, quiet.say)
        assert named in str(caught.value)
        assert len(str(caught.value)) < 600
        assert S3_SECRET not in str(caught.value)
