"""`kcframe run --arm`: some arms of a recipe."""

from __future__ import annotations

import json

import pytest

from kcframe.cli.run import run_recipe
from kcframe.errors import RecipeError


def test_one_arm_and_later_another_beside_it(tiny, tmp_path, capsys):
    path, folder = str(tiny()), tmp_path / "run"

    def run(*arms):
        run_recipe(path, (), str(folder), arms)
        results = json.loads((folder / "results.json").read_text())
        return capsys.readouterr().out, results

    out, results = run("student")
    assert list(results["arms"]) == ["student"]
    assert results["baseline"] is None
    assert "arm generalist" not in out
    weights = (folder / "arms/student/weights.safetensors").stat().st_mtime_ns
    _, results = run("generalist")
    assert list(results["arms"]) == ["generalist", "student"]
    assert results["baseline"] == "generalist"
    assert (folder / "arms/student/weights.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(RecipeError, match="--arm: the recipe has no arm 'studnet'; did you mean 'student'"):
        run("studnet")
