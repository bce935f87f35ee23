"""`kcframe tune` on a real cluster: trials, a crashed one, an interruption, and the recipe that is left."""

from __future__ import annotations

import json
import os
import signal

import pytest
import yaml

from kcframe.cli.tune import _learners, tune_recipe
from kcframe.errors import RecipeError, RunDirError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.backends.ray.tune import arm_of, sweep
from kcframe.run.pipeline import run, train
from kcframe.storage.run_dir import RunDir
from tests.conftest import Quiet
from tests.faults import of_this_process, processes_called

SEARCH = {
    "trials": 3,
    "fields": {
        "train.learning_rate": {"low": 0.003, "high": 0.03, "log": True},
        "pacing.options.learning_rate_scale": {"choice": [1.0, 30.0]},
    },
}


@pytest.fixture
def searching(tiny):
    """Writes the tiny recipe with a search section; returns its file."""

    def write(search: dict):
        path = tiny()
        recipe = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**recipe, "search": search}))
        return path

    return write


def test_a_sweep_leaves_a_recipe_that_gives_its_figure_again(searching, tmp_path, cluster, capsys):
    path, url = searching(SEARCH), str(tmp_path / "sweep")
    tune_recipe(str(path), [f"teacher_cache.url={tmp_path}/kept"], url)
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"{url}/best.yaml"
    # Before the first trial, so that no two ask for the same.
    assert "teacher outputs 3 of 3" in out
    assert len(list((tmp_path / "kept").glob("vertical*"))) == 3
    found = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert len(found["trials"]) == 3
    assert (found["arm"], found["best"]) == ("student", found["trials"][0]["name"])
    assert all(0.003 <= trial["values"]["train.learning_rate"] <= 0.03 for trial in found["trials"])
    finished = [t["mpvap"] for t in found["trials"] if t["state"] == "finished"]
    assert found["trials"][0]["mpvap"] == max(finished)
    assert (tmp_path / "sweep/sweep.svg").read_text().startswith("<svg")

    best = load_recipe(f"{url}/best.yaml", installed())
    assert list(best.arms) == ["student"]
    results = run(best, RunDir(tmp_path / "again"), Quiet())
    assert results["split"] == "validation"
    assert results["arms"]["student"]["mpvap"] == pytest.approx(found["trials"][0]["mpvap"], abs=0.5)

    # All trials are done: the same command only says so.
    weights = sorted((tmp_path / "sweep").glob("arms/*/result.json"))
    before = [file.stat().st_mtime_ns for file in weights]
    tune_recipe(str(path), [f"teacher_cache.url={tmp_path}/kept"], url)
    assert [file.stat().st_mtime_ns for file in weights] == before


def test_a_crashed_trial_and_one_that_cannot_be_trained_do_not_stop_the_others(
    searching, tmp_path, cluster, monkeypatch
):
    search = {"searcher": "grid", "stop_early": False, "parallel": 1}
    search["fields"] = {"train.learning_rate": {"choice": [0.01, 1000.0]}, "train.epochs": {"choice": [2]}}
    path = searching(search)
    recipe = load_recipe(str(path), installed(), ["arms.student.train.optimizer=sgd"])
    said = []

    def kill_once(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            for process in of_this_process(processes_called(b"ray::ImplicitFunc")):
                os.kill(process, signal.SIGKILL)

    run_dir = RunDir(tmp_path / "sweep")
    run(recipe.model_copy(update={"arms": {"generalist": recipe.arms["generalist"]}}), run_dir, Quiet())
    trials = {t.values["train.learning_rate"]: t for t in sweep(recipe, run_dir, kill_once)}
    assert trials[0.01].state == "finished"
    assert trials[1000.0].state == "failed"
    assert any("the loss is not finite" in line for line in said)


def test_groups_of_workers_take_turns_and_a_changed_sweep_is_refused(searching, tmp_path, cluster):
    search = {"searcher": "grid", "stop_early": False, "parallel": 1}
    search["fields"] = {"train.learning_rate": {"choice": [0.01, 0.02]}}
    two = ["execution.workers=2", "arms.student.objective=hard-bce", "specialists=null"]
    recipe = load_recipe(str(searching(search)), installed(), two)
    run_dir = RunDir(tmp_path / "sweep")
    train(recipe, run_dir, Quiet(), lambda plan: plan.specialists)  # as the command does first
    trials = sweep(recipe, run_dir, print)
    assert [trial.state for trial in trials] == ["finished", "finished"]
    begun = sorted((tmp_path / "sweep").glob("arms/*/stage.json"), key=lambda file: file.stat().st_mtime)
    ended = sorted((tmp_path / "sweep").glob("arms/*/result.json"), key=lambda file: file.stat().st_mtime)
    assert ended[0].stat().st_mtime < begun[1].stat().st_mtime
    assert not (tmp_path / "sweep/ray").exists()

    other = load_recipe(str(searching(search)), installed(), [*two, "search.trials=99"])
    with pytest.raises(
        RunDirError, match=r"holds a sweep that was begun with other settings:\n  search.trials"
    ):
        sweep(other, run_dir, print)
    # A driver that was lost before it had written what trials there are: it begins anew.
    for state in (tmp_path / "sweep/tune").glob("experiment_state*"):
        state.unlink()
    assert [trial.state for trial in sweep(recipe, run_dir, print)] == ["finished", "finished"]


def test_a_recipe_without_a_search_says_how_to_write_one(tiny):
    with pytest.raises(RecipeError, match="search: is missing"):
        tune_recipe(str(tiny()), [], None)


def test_teachers_are_asked_first_for_all_that_a_trial_may_want(searching):
    fields = {
        "objective.options.k": {"choice": [3, 40]},
        "train.epochs": {"low": 2, "high": 9, "integer": True},
        "train.learning_rate": {"low": 0.1, "high": 1},
    }
    arms = _learners(load_recipe(str(searching({"fields": fields})), installed())).values()
    assert {arm.train.epochs for arm in arms} == {2, 3, 9}
    assert {arm.objective.options["k"] for arm in arms} == {3, 40, 100}
    assert len({arm.train.learning_rate for arm in arms}) == 1


def test_an_arm_with_values(searching):
    recipe = load_recipe(str(searching(SEARCH)), installed())
    changed = arm_of(recipe, "x", {"train.learning_rate": 0.5, "pacing.options.learning_rate_scale": 2})
    assert list(changed.arms) == ["x"]
    assert changed.arms["x"].train.learning_rate == 0.5
    assert changed.arms["x"].pacing.options["learning_rate_scale"] == 2
    assert changed.arms["x"].backbone == recipe.arms["student"].backbone
    assert recipe.arms["student"].train.learning_rate == 0.01
