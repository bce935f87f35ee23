"""The benchmarks run, compare like with like, and write what they print. How fast is not asked here."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from kcframe.assemble import build_source
from kcframe.cli import cli
from kcframe.engine.batches import Plan
from kcframe.engine.sampler import Sampler
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed


def call(*arguments) -> str:
    done = CliRunner().invoke(cli, ["bench", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_data(tiny, tmp_path):
    call("data", tiny(), "--workers", "0,1", "--batches", 2, "--rounds", 2, "--json", tmp_path / "f.json")
    found = json.loads((tmp_path / "f.json").read_text())
    assert set(found["images_per_second"]) == {"this process", "DataLoader, 1"}
    assert len(found["rows"]) == 4
    assert found["over_first"]["this process"] == [1, 1]


def test_data_by_way_of_ray_data_are_the_same_pictures(tiny, cluster):
    from kcframe.backends.ray.data import connect_and_load

    recipe = load_recipe(str(tiny()), installed())
    images = build_source(recipe).split("train")
    plan = Plan(images, images.labels, Sampler(torch.arange(len(images)), 16, 0), 0)
    loaded = list(connect_and_load(recipe, range(6), 2))
    assert len(loaded) == 6
    for step, batch in enumerate(loaded):
        torch.testing.assert_close(batch.images, plan[step].images, rtol=0, atol=0)


def test_step(tmp_path):
    small = ("--rounds", 1, "--steps", 2, "--batch", 4, "--teachers", 2, "--image-size", 32)
    call("step", *small, "--json", tmp_path / "f.json")
    found = json.loads((tmp_path / "f.json").read_text())
    ways = ["student only", "+ routed teachers", "+ all teachers on all images"]
    assert [row["way"] for row in found["rows"]] == ways == list(found["images_per_second"])
    assert all(len(row["seconds"]) == 2 for row in found["rows"])
    assert 0 < found["routing_share"] < 1


def test_step_on_ray(tmp_path, cluster):
    call("step", "--backend", "ray", "--rounds", 1, "--steps", 4, "--json", tmp_path / "f.json")
    found = json.loads((tmp_path / "f.json").read_text())
    assert [row["backend"] for row in found["rows"]] == ["local", "ray"]
    local, ray = (row["images_per_second"] for row in found["rows"])
    assert found["ray_step_over_local"] == pytest.approx(local / ray)


def test_wrong_numbers_and_files_are_answered(tiny, tmp_path):
    from kcframe.errors import RunDirError

    done = CliRunner().invoke(cli, ["bench", "data", str(tiny()), "--workers", "many"])
    assert done.exit_code == 2
    assert "'many': write numbers, e.g. 0,2,4" in done.output
    with pytest.raises(RunDirError, match="--json .*/no/f.json: cannot be written: No such file"):
        call("data", tiny(), "--workers", "0", "--batches", 1, "--json", tmp_path / "no/f.json")
