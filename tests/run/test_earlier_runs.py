"""A run directory that an earlier kcframe made goes on (tests/fixtures/README.md says which)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kcframe
from kcframe.engine.metrics_log import read_metrics
from kcframe.errors import RunDirError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.stages.settings import as_today
from kcframe.storage.run_dir import RunDir
from tests.conftest import Quiet

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def earlier(tmp_path):
    return Path(shutil.copytree(FIXTURES / "run-0.1", tmp_path / "run"))


def go_on(folder, *overrides):
    quiet = Quiet()
    recipe = load_recipe(str(folder / "recipe.yaml"), installed(), overrides)
    return run(recipe, RunDir(folder), quiet), quiet


def test_it_goes_on_from_its_checkpoint_to_the_same_weights(earlier):
    results, quiet = go_on(earlier)
    assert quiet.begun == ["arm student"]
    assert "4 of 5 stages are finished and kept" in quiet.said
    assert quiet.steps == 12 - 5
    lines = read_metrics(RunDir(earlier), "arms/student")
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 13))
    expected = load_file(FIXTURES / "run-0.1-student.safetensors")
    weights = load_file(earlier / "arms/student/weights.safetensors")
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        # Equal to the bit on the machine that made them; other processors round otherwise.
        torch.testing.assert_close(weights[name], values, rtol=1e-3, atol=1e-4)
    assert set(results["arms"]) == {"generalist", "student"}


def test_its_finished_student_is_used(earlier):
    student = kcframe.load(f"{earlier}:generalist")
    assert student.taxonomy.num_classes == 9
    assert len(student.predict(torch.rand(2, 1, 8, 8), top=3)[0]) == 3


def test_a_change_is_still_refused_and_fields_that_came_since_are_none(earlier):
    with pytest.raises(RunDirError, match=r"holds arm student, trained.*other settings") as caught:
        go_on(earlier, "arms.student.train.epochs=4")
    assert [line for line in str(caught.value).splitlines() if "->" in line] == ["  arm.train.epochs: 3 -> 4"]


def test_settings_of_an_earlier_kcframe_are_read_through_todays_schema(earlier):
    written = json.loads((earlier / "arms/student/stage.json").read_text())["settings"]
    assert "ema" not in written["arm"]["train"]
    today = as_today(written)
    assert today["arm"]["train"]["ema"] is None
    assert "log_every" not in today["arm"]["train"]
    # An option that the plugin has got since, and one that it no longer has.
    del written["arm"]["pacing"]["options"]["variance"]
    assert as_today(written) == today
    written["arm"]["pacing"]["options"]["gone"] = 1
    assert as_today(written)["arm"]["pacing"]["options"]["gone"] == 1
