"""Runs whose teachers' outputs are kept: what is learned, what is asked again, and what is refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
import yaml

from kcframe.assembly.arms import resolve_arms
from kcframe.assembly.source import build_source
from kcframe.assembly.teacher_cache import cache_needs
from kcframe.builtin.pacing.self_paced import SelfPaced
from kcframe.cli.cache import cache_outputs
from kcframe.engine.metrics_log import read_metrics
from kcframe.engine.teachers import asking
from kcframe.errors import DataError, Interrupted, RecipeError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run import pipeline
from kcframe.storage.run_dir import RunDir
from tests.conftest import TINY, Quiet

SPECIALISTS = {f"vertical {v}" for v in range(3)}


def specialists(plan):
    return plan.specialists


def outputs(plan):
    return plan.outputs


def before_arms(plan):
    return plan.before_arms


def needs_of_student(recipe, tmp_path):
    arms = {"student": resolve_arms(recipe)["student"]}
    return cache_needs(recipe, build_source(recipe), RunDir(tmp_path / "run"), arms).needs


@pytest.fixture
def run(tmp_path):
    """Runs the tiny recipe with changes, in folder `name`; gives its watcher and its arms' logged losses."""

    def run(name="run", *overrides, arms=None, stop_at=None, choose=iter):
        file = tmp_path / "tiny.yaml"
        file.write_text(yaml.safe_dump({**TINY, "arms": TINY["arms"] | (arms or {})}, sort_keys=False))
        recipe = load_recipe(str(file), installed(), overrides)
        watch, run_dir = Quiet(stop_at), RunDir(tmp_path / name)
        pipeline.train(recipe, run_dir, watch, choose)
        losses = {
            arm: [line["loss"] for line in read_metrics(run_dir, f"arms/{arm}") if line["kind"] == "step"]
            for arm in recipe.arms
            if choose is iter
        }
        return watch, losses

    return run


@pytest.fixture
def asked(monkeypatch):
    """The teachers that are asked, by name, and about how many pictures."""
    found: dict[str, int] = {}
    before = asking.teacher_logits

    def counted(need, pictures, device):
        found[need.stored.teacher] = found.get(need.stored.teacher, 0) + len(pictures)
        return before(need, pictures, device)

    monkeypatch.setattr(asking, "teacher_logits", counted)
    return found


MORE = {
    "short": {"train": {"epochs": 2}},
    "warm": {"objective": {"name": "top-k-bce", "options": {"k": 2, "temperature": 3, "hard_weight": 0.5}}},
}


def test_students_learn_what_live_teachers_teach(run, asked, tmp_path):
    _, live = run("live", arms=MORE)
    watch, kept = run("kept", f"teacher_cache.url={tmp_path}/c", arms=MORE)
    assert [name for name in watch.begun if name.startswith("teacher")] == ["teacher outputs 1 of 1"]
    assert live["generalist"] == kept["generalist"]
    for arm in live:
        assert kept[arm][0] == pytest.approx(live[arm][0], rel=1e-6)
        assert kept[arm] == pytest.approx(live[arm], rel=2e-3)  # AdamW makes much of little at first
    results = [json.loads((tmp_path / f"{r}/arms/student/result.json").read_text()) for r in ("live", "kept")]
    assert results[0]["teacher_images"] == results[1]["teacher_images"] == 3 * 50
    assert results[0]["mpvap"] == pytest.approx(results[1]["mpvap"], abs=0.5)
    # Three epochs of 50 pictures, for all four arms; before each arm, four of each teacher again.
    assert set(asked) == SPECIALISTS
    assert 150 < sum(asked.values()) <= 150 + 3 * 3 * 4


def test_a_run_that_goes_on_asks_nobody_again(run, asked, tmp_path):
    kept = f"teacher_cache.url={tmp_path}/c"
    run("run", kept, choose=before_arms)
    asked.clear()
    run("run", kept, choose=before_arms)
    assert not asked
    with pytest.raises(Interrupted):
        run("run", kept, stop_at=15)
    _, gone_on = run("run", kept)
    _, whole = run("whole", f"teacher_cache.url={tmp_path}/d")
    assert gone_on == whole


def test_a_specialist_that_is_trained_again_is_asked_and_no_other(run, asked, tmp_path):
    kept = f"teacher_cache.url={tmp_path}/c"
    run("run", kept)
    before = set((tmp_path / "c").iterdir())
    for file in ("weights.safetensors", "result.json"):
        (tmp_path / f"run/specialists/vertical 1/{file}").unlink()
    asked.clear()
    # To the bit what it was: nothing to ask.
    run("run", kept, choose=before_arms)
    assert not asked
    # Another seed's are others, in the same place.
    run("other", kept, "seed=5", choose=before_arms)
    assert set(asked) == SPECIALISTS
    assert len(set((tmp_path / "c").iterdir())) == 2 * len(before)
    asked.clear()
    shutil.rmtree(tmp_path / "run/arms")
    shutil.copy(
        tmp_path / "other/specialists/vertical 2/weights.safetensors", tmp_path / "run/specialists/vertical 2"
    )
    run("run", kept, choose=outputs)
    assert set(asked) == {"vertical 2"}


def test_more_epochs_ask_about_those_that_are_missing(run, asked, tmp_path):
    kept = f"teacher_cache.url={tmp_path}/c"
    run("run", kept, choose=before_arms)
    assert sum(asked.values()) == 3 * 50
    run("run", kept, "student.train.epochs=5", choose=before_arms)
    assert sum(asked.values()) == 5 * 50


def test_without_fill_what_differs_is_said(run, tmp_path):
    kept = (f"teacher_cache.url={tmp_path}/c", "teacher_cache.fill=false")
    with pytest.raises(
        DataError, match="has no outputs of teacher 'vertical 0' as it is now\n`kcframe cache"
    ):
        run("run", *kept)
    run("run", kept[0], choose=before_arms)
    run("run", *kept)
    with pytest.raises(DataError, match="has no outputs of teacher 'vertical 0' for epoch 4 of seed 0\n"):
        run("longer", *kept, "student.train.epochs=4")
    with pytest.raises(DataError) as caught:
        run("other", *kept, "data.options.train_images=60")
    said = str(caught.value)
    assert "has no outputs of teacher 'vertical 0' as it is now\n" in said
    assert "\n  data.settings.options.train_images: 50 -> 60\n" in said
    assert re.search(r"\n  teacher\.weights: '\w{11}… -> '\w{11}…", said)


def test_k_that_is_too_small_is_refused_before_anything_is_trained(run, tmp_path):
    kept = (f"teacher_cache.url={tmp_path}/c", "teacher_cache.k=4")
    with pytest.raises(RecipeError, match=r"teacher_cache.k: keeps 4 of .* arms.student learns from 100"):
        run("run", *kept)
    assert not (tmp_path / "run").exists()
    run("run", *kept, "student.objective.options.k=4")
    assert sorted(name.name[-2:] for name in (tmp_path / "c").iterdir()) == ["-1", "-3", "-4"]


def test_an_objective_that_looks_at_all_outputs_has_all(run, tmp_path):
    pytest.importorskip("kcframe_objective_softened")
    arms = {"soft": {"objective": {"name": "softened", "options": {"k": 2}}}}
    _, live = run("live", arms=arms)
    _, kept = run("kept", f"teacher_cache.url={tmp_path}/c", arms=arms)
    assert kept["soft"] == pytest.approx(live["soft"], rel=2e-3)
    with pytest.raises(RecipeError, match=r"arms.soft learns from all: leave it out"):
        run("no", f"teacher_cache.url={tmp_path}/c", "teacher_cache.k=100", arms=arms)


def test_images_that_ask_several_teachers_and_a_validation_cut(run, tmp_path):
    """The cut's pictures are kept too, so that one cache serves every cut."""
    cut = ("evaluation.split=validation", "evaluation.share=0.3", "data.options.labels_per_image=2")
    _, live = run("live", *cut)
    kept = f"teacher_cache.url={tmp_path}/c"
    run("kept", kept, *cut, choose=before_arms)
    _, found = run("kept", kept, "teacher_cache.fill=false", *cut)
    results = json.loads((tmp_path / "kept/arms/student/result.json").read_text())
    assert results["teacher_images"] > results["images_routed"]
    assert found["student"] == pytest.approx(live["student"], rel=2e-3)


def test_a_trial_that_wants_more_than_is_kept_is_refused(run, tmp_path):
    """Trials are checked by nobody before they begin."""
    recipe = load_tiny(tmp_path, f"teacher_cache.url={tmp_path}/c", "teacher_cache.k=100")
    run("run", f"teacher_cache.url={tmp_path}/c", choose=specialists)
    less = recipe.model_copy(update={"teacher_cache": recipe.teacher_cache.model_copy(update={"k": 4})})
    with pytest.raises(RecipeError, match=r"keeps 4 of a teacher's outputs, and arms.student learns from 5"):
        needs_of_student(less, tmp_path)


def test_a_folder_that_holds_more_is_read_if_nothing_is_missing(run, asked, tmp_path):
    kept = f"teacher_cache.url={tmp_path}/c"
    run("run", kept, choose=before_arms)
    asked.clear()
    (full,) = (tmp_path / "c").glob("vertical 0-*-5")
    (tmp_path / "c" / (full.name[:-1] + "5.bak")).mkdir()
    (tmp_path / "c" / (full.name[:-1] + "3")).mkdir()  # with nothing in it
    run("less", kept, "student.objective.options.k=2", choose=before_arms)
    assert not asked


def test_a_cache_below_the_run_directory_stays(run, asked, tmp_path):
    kept = f"teacher_cache.url={tmp_path}/run/outputs"
    run("run", kept)
    asked.clear()
    run("run", kept, choose=before_arms)
    assert not asked


def load_tiny(tmp_path, *overrides):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY, sort_keys=False))
    return load_recipe(str(file), installed(), overrides)


def test_temperatures_of_verticals_need_all_outputs_of_a_teacher_that_spans_them(run, tmp_path, monkeypatch):
    run("run", choose=specialists)
    recipe = load_tiny(tmp_path, f"teacher_cache.url={tmp_path}/c", "student.objective.options.k=2")
    source = build_source(recipe)

    def widths():
        needs = needs_of_student(recipe, tmp_path)
        return [need.stored.width for need in needs]

    assert widths() == [2, 1, 2]
    monkeypatch.setattr(SelfPaced, "temperatures", lambda self, progress: torch.ones(3), raising=False)
    assert widths() == [2, 1, 2]  # a specialist's classes stand in one vertical
    located = type(source.taxonomy).locate
    monkeypatch.setattr(
        type(source.taxonomy), "locate", lambda self, c: located(self, c) + ((9, 9),) * (c == 0)
    )
    assert widths() == [5, 1, 2]


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def cache(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")

    def cache(*overrides, url=None, verify=None):
        file = str(tiny())
        cache_outputs(file, overrides, str(tmp_path / "run"), url, verify=verify)
        return capsys.readouterr().out

    return cache


def test_the_command_says_what_is_kept_and_asks_again(cache, tmp_path):
    url = str(tmp_path / "c")
    said = cache("teacher_cache.fill=false", url=url)
    assert re.search(r"vertical 0 +\d+ +5 +3 +3 ", said)
    assert said.splitlines()[-1] == url
    said = cache(url=url, verify=10)
    assert re.search(r"vertical 2 +\d+ +3 +3 +\d+ +[\d.e-]+ ", said)
    with pytest.raises(DataError, match="for epoch 4 of seed 0"):
        cache("arms.student.train.epochs=4", url=url, verify=10)
    (file,) = tmp_path.glob("c/vertical 2-*/seed-0/epoch-0001/00000.arrow")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"epoch-0001/00000.arrow: damaged"):
        cache(url=url, verify=10)


def test_what_the_command_lacks_is_said(cache):
    with pytest.raises(RecipeError, match="teacher_cache: is missing. Say where to keep what teachers say"):
        cache()
    with pytest.raises(RecipeError, match="arms: none of them asks a teacher"):
        cache("arms.student.objective=hard-bce", url="x")
