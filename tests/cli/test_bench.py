"""The benchmarks run, compare like with like, and write what they print. How fast is not asked here."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from kcframe.assembly.source import build_source
from kcframe.cli.main import cli
from kcframe.engine.data.batches import BatchPlan
from kcframe.engine.data.sampler import Sampler
from kcframe.engine.data.split import Split
from kcframe.errors import StorageError
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


def test_data_of_its_own(tmp_path):
    call("data", "--workers", "0", "--batches", 1, "--rounds", 1, "--json", tmp_path / "f.json")
    assert json.loads((tmp_path / "f.json").read_text())["source"] == "image-folder"


def test_data_of_its_own_in_every_layout_where_one_says(tmp_path):
    where = tmp_path / "pictures"
    few = ("--workers", "0", "--batches", 1, "--rounds", 1)
    call("data", "--at", where, *few, "--json", tmp_path / "f.json")
    found = json.loads((tmp_path / "f.json").read_text())["images_per_second"]
    assert list(found) == [f"{where}, {layout}: this process" for layout in ("files", "tar", "parquet")]
    assert list(where.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/x", "what://x", "https://me:secret@127.0.0.1:9/x"])
def test_a_place_that_cannot_be_written_is_said(place):
    done = CliRunner().invoke(cli, ["bench", "data", "--at", place])
    assert isinstance(done.exception, StorageError)
    assert f"--at {place.replace('me:secret@', '')}: made-up files cannot be written" in str(done.exception)


def test_data_by_way_of_ray_data_are_the_same_pictures(tiny, cluster):
    from kcframe.run.backends.ray.data import connect_and_load

    recipe = load_recipe(str(tiny()), installed())
    images = build_source(recipe).split("train")
    plan = BatchPlan(Split.whole(images), Sampler(torch.arange(len(images)), 16, 0), 0)
    loaded = list(connect_and_load(recipe, range(6), 2))
    assert len(loaded) == 6
    for step, batch in enumerate(loaded):
        torch.testing.assert_close(batch.images, plan[step].images, rtol=0, atol=0)


def test_step(tmp_path):
    small = ("--rounds", 1, "--steps", 2, "--batch", 4, "--teachers", 2, "--image-size", 32)
    call("step", *small, "--json", tmp_path / "f.json")
    found = json.loads((tmp_path / "f.json").read_text())
    ways = ["student only", "+ what teachers said, kept", "+ routed teachers", "+ all teachers on all images"]
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
    assert "'many': write numbers of 0 or more, e.g. 0,2,4" in done.output
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="file/f.json: cannot be written: "):
        call("data", tiny(), "--workers", "0", "--batches", 1, "--json", tmp_path / "file/f.json")


def test_head(tmp_path):
    small = ("--classes", 300, "--verticals", 4, "--s1", 32, "--s2", 16, "--batch", 16, "--kept", 5)
    more = ("--rounds", 2, "--trained", 2, "--optimizers", "--json", tmp_path / "f.json")
    out = call("head", *small, *more)
    found = json.loads((tmp_path / "f.json").read_text())
    ways = {row["way"]: row for row in found["rows"]}
    assert {"matrix products", "this head", "plain plugins", "dense"} <= set(ways)
    seconds = [ways[way]["seconds"] for way in ("this head", "matrix products")]
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    assert found["step_over_matmuls"] == pytest.approx(sum(ratios) / 2)
    assert found["memory_over_dense"] == pytest.approx(
        ways["this head"]["extra_bytes"] / ways["dense"]["extra_bytes"]
    )
    filtered = found["gradient_filter"]
    assert 0 <= filtered["classifier_error"] <= filtered["largest_error"] < 1
    assert "linear_cross_entropy" in out
    assert [len(found["optimizers"][way]) for way in ("fused", "foreach", "one by one")] == [2, 2, 2]


def test_bare_products_are_those_of_the_code():
    from kcframe.cli.bench.products import _Recorder

    x, w = torch.randn(5, 4), torch.randn(3, 4, requires_grad=True)
    with _Recorder() as recorder:
        torch.nn.functional.linear(x, w, torch.zeros(3)).sum().backward()
    assert [(list(a.shape), list(b.shape), list(out.shape)) for a, b, out in recorder.products] == [
        ([5, 4], [4, 3], [5, 3]),
        ([3, 5], [5, 4], [3, 4]),
    ]


def test_peak_memory_is_what_was_held_at_once():
    from kcframe.cli.bench.memory import peak_bytes

    def action():
        first = torch.zeros(1000)
        second = first + 1
        del first, second
        return torch.zeros(1500)

    assert peak_bytes(torch.device("cpu"), action) == pytest.approx(8000, abs=100)
