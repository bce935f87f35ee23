"""A whole run, in process: results, resumption, refusals."""

from __future__ import annotations

import json
import math
import shutil
import threading

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from kcframe.engine.evaluation import evaluate as evaluating
from kcframe.engine.metrics_log import read_metrics
from kcframe.engine.optimizer import FUSED_FROM
from kcframe.engine.step import TrainStep
from kcframe.errors import DataError, Interrupted, RecipeError, RunDirError, TrainingError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.stages.arm import ArmStage
from kcframe.stages.context import Context
from kcframe.stages.specialist import SpecialistStage
from kcframe.storage.run_dir import RunDir
from tests.conftest import TINY, Quiet
from tests.threads import Threads


def go(path, run_dir, *overrides, watcher=None):
    watcher = watcher or Quiet()
    recipe = load_recipe(str(path), installed(), overrides)
    return run(recipe, RunDir(run_dir), watcher), watcher


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run, read by several tests."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY, sort_keys=False))
    results, _ = go(path, folder / "run")
    return path, folder / "run", results


def test_the_results_say_what_was_asked_for(finished):
    _, run_dir, results = finished
    written = json.loads((run_dir / "results.json").read_text())
    assert written == results
    for figures in (*results["arms"].values(), results["specialists"]):
        assert {"mpvap", "top1", "top5", "parameters", "per_vertical"} <= set(figures)
        assert set(figures["per_vertical"]) == {"vertical 0", "vertical 1", "vertical 2"}
        assert 0 <= figures["mpvap"] <= 100
        assert figures["mpvap"] == pytest.approx(
            sum(row["ap"] for row in figures["per_vertical"].values()) / 3
        )
    assert results["teacher_images_per_image"] == 1.0
    assert results["seed"] == 0
    arms, top = results["arms"], results["specialists"]["mpvap"]
    base = arms["generalist"]["mpvap"]
    assert arms["generalist"]["gap_closed"] in (0.0, None)
    if top > base:
        closed = (arms["student"]["mpvap"] - base) / (top - base)
        assert arms["student"]["gap_closed"] == pytest.approx(100 * closed)


def test_the_run_directory_is_whole(finished):
    _, run_dir, _ = finished
    found = {str(p.relative_to(run_dir)) for p in run_dir.rglob("*") if p.is_file()}
    for stage in ("arms/generalist", "arms/student", "specialists/vertical 1"):
        for name in ("weights.safetensors", "result.json", "metrics.jsonl", "stage.json"):
            assert f"{stage}/{name}" in found
        assert f"{stage}/checkpoint.safetensors" not in found
    assert {
        "recipe.yaml",
        "versions.json",
        "taxonomy.json",
        "data.json",
        "results.json",
        "report.html",
    } <= found
    assert not any(".part" in name for name in found)
    assert torch.__version__.startswith(json.loads((run_dir / "versions.json").read_text())["torch"])
    assert load_recipe(str(run_dir / "recipe.yaml"), installed()).arms["student"].train.epochs == 3


def test_metrics_have_one_line_a_step_and_one_an_evaluation(finished):
    _, run_dir, _ = finished
    lines = read_metrics(RunDir(run_dir), "arms/student")
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 13))  # 4 a epoch, 3
    assert [line["epoch"] for line in lines if line["kind"] == "evaluation"] == [1, 2, 3]
    assert all(len(line["gamma"]) == 3 for line in lines if line["kind"] == "step")


def test_a_finished_run_is_not_run_again(finished):
    path, run_dir, results = finished
    weights = run_dir / "arms/student/weights.safetensors"
    before = weights.stat().st_mtime_ns
    again, watcher = go(path, run_dir)
    assert again == results
    assert watcher.begun == []
    assert watcher.said == ["5 of 5 stages are finished and kept"]
    assert weights.stat().st_mtime_ns == before


def test_an_arm_added_later_is_the_only_one_trained(finished, tmp_path):
    path, run_dir, _ = finished
    results, watcher = go(path, run_dir, "arms.more.expander=sc-sc")
    assert watcher.begun == ["arm more"]
    assert set(results["arms"]) == {"generalist", "student", "more"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed=1", "seed: 0 -> 1"),
        ("arms.student.train.epochs=4", "arm.train.epochs: 3 -> 4"),
        ("specialists.train.epochs=1", "specialists.train.epochs: 2 -> 1"),
        ("data.options.test_images=31", "data.options.test_images: 30 -> 31"),
    ],
)
def test_other_settings_in_the_same_directory_are_refused_before_any_work(finished, change, said):
    path, run_dir, _ = finished
    before = (run_dir / "recipe.yaml").read_bytes()
    with pytest.raises(RunDirError, match=said):
        go(path, run_dir, change)
    assert (run_dir / "recipe.yaml").read_bytes() == before


def test_settings_that_change_nothing_do_not_matter(finished):
    path, run_dir, _ = finished
    _, watcher = go(path, run_dir, "student.train.log_every=7", "arms.student.train.evaluate_every=0")
    assert watcher.begun == []


@pytest.mark.parametrize("stop_at", [3, 8, 17, 25])
@pytest.mark.parametrize(
    ("optimizer", "fused_from"), [("adamw", FUSED_FROM), ("sgd", FUSED_FROM), ("adamw", 0)]
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    tiny, tmp_path, stop_at, optimizer, fused_from, monkeypatch
):
    """Stops in a specialist, at an epoch's end, and in both arms; resumes; compares everything."""
    monkeypatch.setattr("kcframe.engine.optimizer.FUSED_FROM", fused_from)
    overrides = [
        f"{part}.train.{setting}"
        for part in ("specialists", "arms.generalist", "arms.student")
        for setting in (f"optimizer={optimizer}", "clip_gradient_norm=1.0", "warmup=0.2")
    ]
    overrides += ["data.options.labels_per_image=2", "arms.student.objective.options.hard_weight=0.5"]
    path = tiny(*overrides)
    go(path, tmp_path / "whole")
    with pytest.raises(Interrupted, match="stopped at step"):
        go(path, tmp_path / "parts", watcher=Quiet(stop_at))
    go(path, tmp_path / "parts")
    for stage in ("arms/generalist", "arms/student", "specialists/vertical 0", "specialists/vertical 2"):
        whole, parts = (
            load_file(tmp_path / run / stage / "weights.safetensors") for run in ("whole", "parts")
        )
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        assert (tmp_path / "whole" / stage / "metrics.jsonl").read_text() == (
            tmp_path / "parts" / stage / "metrics.jsonl"
        ).read_text()
    for name in ("results.json", "taxonomy.json", "recipe.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_lines_written_after_the_last_checkpoint_are_not_doubled(tiny, tmp_path):
    path = tiny()
    with pytest.raises(Interrupted):
        go(path, tmp_path / "r", watcher=Quiet(stop_at=9 + 2 + 2 + 6))
    metrics = next((tmp_path / "r" / "arms").rglob("metrics.jsonl"))
    last = json.loads(metrics.read_text().splitlines()[-1])
    with metrics.open("a") as file:  # as if the machine had died between the two files
        file.write(json.dumps({**last, "step": last["step"] + 1}) + "\n")
    go(path, tmp_path / "r")
    steps = [
        json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"kind": "step"' in line
    ]
    assert steps == sorted(set(steps))


def test_another_seed_gives_another_student(tiny, tmp_path):
    path = tiny()
    first, _ = go(path, tmp_path / "a")
    second, _ = go(path, tmp_path / "b", "seed=1")
    assert first["arms"]["student"]["mpvap"] != second["arms"]["student"]["mpvap"]


def test_images_of_several_verticals_ask_several_teachers(tiny, tmp_path):
    results, _ = go(tiny("data.options.labels_per_image=3"), tmp_path / "r")
    assert results["teacher_images_per_image"] > 1.5


def test_a_checkpoint_of_another_run_teaches_under_other_names(finished, tiny, tmp_path):
    _, run_dir, _ = finished
    names = {"v0 class 0": "v2 class 0", "v0 class 1": "v0 class 1"}
    (tmp_path / "map.json").write_text(json.dumps(names))
    weights = run_dir / "specialists/vertical 0/weights.safetensors"
    teacher = json.dumps(
        {"name": "checkpoint", "options": {"path": str(weights), "label_map": str(tmp_path / "map.json")}}
    )
    results, _ = go(tiny("specialists=null", f"arms.student.teachers=[{teacher}]"), tmp_path / "r")
    assert results["specialists"] is None
    assert results["arms"]["student"]["gap_closed"] is None
    assert 0 < results["teacher_images_per_image"] < 1  # only two classes have someone to ask

    (tmp_path / "map.json").write_text('{"v0 clas 0": "v0 class 0"}')
    with pytest.raises(DataError, match="no class 'v0 clas 0'; did you mean 'v0 class 0'"):
        go(tiny("specialists=null", f"arms.student.teachers=[{teacher}]"), tmp_path / "r2")


def test_a_teacher_that_cannot_teach_is_said_before_anything_is_trained(tiny, tmp_path):
    teacher = json.dumps({"name": "checkpoint", "options": {"path": str(tmp_path / "none.safetensors")}})
    with pytest.raises(DataError, match=r"none.safetensors: no such file"):
        go(tiny(f"arms.student.teachers=[specialists, {teacher}]"), tmp_path / "r")
    only = json.dumps({"name": "specialists", "options": {"verticals": ["vertical 9"]}})
    with pytest.raises(DataError, match="no vertical 'vertical 9'"):
        go(tiny(f"arms.student.teachers=[{only}]"), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_how_often_the_network_is_measured_changes_nothing(tiny, tmp_path, monkeypatch):
    measure = evaluating.evaluate

    def careless(*arguments):
        torch.rand(3)
        return measure(*arguments)

    monkeypatch.setattr(evaluating, "evaluate", careless)
    for every in (0, 1):
        go(tiny(f"student.train.evaluate_every={every}"), tmp_path / str(every))
    rates = [
        [
            line["loss"]
            for line in read_metrics(RunDir(tmp_path / str(every)), "arms/student")
            if "loss" in line
        ]
        for every in (0, 1)
    ]
    assert rates[0] == rates[1]


def test_specialists_that_are_not_trained_cannot_teach(tiny, tmp_path):
    with pytest.raises(RecipeError, match=r"arms\.student: learns from this run's specialists"):
        go(tiny("specialists=null"), tmp_path / "r")


def test_a_loss_that_is_not_finite_is_an_error_and_keeps_what_was_done(tiny, tmp_path):
    with pytest.raises(TrainingError, match=r"arm student: the loss is not finite at step .*learning_rate"):
        go(tiny("arms.student.train.optimizer=sgd", "arms.student.train.learning_rate=1000"), tmp_path / "r")
    assert (tmp_path / "r/arms/generalist/result.json").exists()


def test_an_update_that_breaks_the_last_step_is_an_error_of_that_arm_and_the_others_go_on(
    tiny, tmp_path, monkeypatch
):
    """The loss of the last step is finite; what its update leaves is not."""
    update = TrainStep._update

    def breaks(self, rate):
        update(self, rate)
        if self.objective.uses_teachers is False and len(self.index.sizes) == 3 and breaks.left == 1:
            with torch.no_grad():
                next(self.student.parameters()).fill_(torch.nan)
        breaks.left -= len(self.index.sizes) == 3

    breaks.left = 12
    monkeypatch.setattr(TrainStep, "_update", breaks)
    path = tiny("specialists.train.epochs=1")
    with pytest.raises(TrainingError) as caught:
        go(path, tmp_path / "r")
    text = str(caught.value)
    assert text.startswith("1 of 5 stages failed, the others are kept:\n  arm generalist: backbone.")
    assert "is not finite after step 12; the last checkpoint is kept. Lower train.learning_rate" in text
    assert (tmp_path / "r/arms/student/result.json").exists()
    assert not (tmp_path / "r/arms/generalist/result.json").exists()
    # What was kept is of before: the same command ends well once the cause is gone.
    monkeypatch.undo()
    results, watcher = go(path, tmp_path / "r")
    assert watcher.begun == ["arm generalist"]
    assert watcher.steps == 4
    assert results["arms"]["generalist"]["mpvap"] is not None


def test_a_specialist_that_fails_stops_only_what_needs_it(tiny, tmp_path, monkeypatch):
    run_one = SpecialistStage.run

    def fails(self, context):
        if self.vertical == "vertical 1":
            raise TrainingError(f"{self}: the loss is not finite")
        run_one(self, context)

    monkeypatch.setattr(SpecialistStage, "run", fails)
    quiet = Quiet()
    with pytest.raises(TrainingError) as caught:
        go(tiny(), tmp_path / "r", watcher=quiet)
    lines = str(caught.value).splitlines()
    assert lines[0] == "1 of 5 stages failed, the others are kept:"
    assert lines[1:3] == [
        "  specialist vertical 1: the loss is not finite",
        "  and 1 stages that need them did not begin",
    ]
    assert quiet.begun[-1] == "arm generalist"
    assert (tmp_path / "r/arms/generalist/result.json").exists()


@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_a_stage_whose_weights_are_not_whole_is_trained_again(damage, tiny, tmp_path):
    path = tiny("specialists=null", "arms.student.objective=hard-bce")
    results, _ = go(path, tmp_path / "r")
    weights = tmp_path / "r/arms/student/weights.safetensors"
    before = weights.read_bytes()
    if damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(b"" if damage == "empty" else before[:-10])
    again, watcher = go(path, tmp_path / "r")
    assert watcher.begun == ["arm student"]
    assert watcher.said[0] == "arm student: its weights are gone or incomplete: it is trained again"
    assert again == results
    assert weights.read_bytes() == before


def test_a_flipped_bit_in_a_specialist_is_told_and_teaches_nobody(tiny, tmp_path):
    path = tiny()
    go(path, tmp_path / "r")
    shutil.rmtree(tmp_path / "r/arms/student")
    weights = tmp_path / "r/specialists/vertical 0/weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 4
    weights.write_bytes(bytes(data))
    with pytest.raises(
        RunDirError, match=r"specialists/vertical 0/weights.safetensors: damaged: the checksum"
    ):
        go(path, tmp_path / "r")


def test_a_damaged_checkpoint_is_named(tiny, tmp_path):
    path = tiny()
    with pytest.raises(Interrupted):
        go(path, tmp_path / "r", watcher=Quiet(stop_at=3))
    checkpoint = next((tmp_path / "r").rglob("checkpoint.safetensors"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(
        RunDirError, match="checkpoint.safetensors: not a file that kcframe wrote, or damaged"
    ):
        go(path, tmp_path / "r")


def test_other_data_under_the_same_recipe_is_refused(tiny, tmp_path):
    path = tiny()
    go(path, tmp_path / "r")
    taxonomy = tmp_path / "r/taxonomy.json"
    taxonomy.write_text(taxonomy.read_text().replace("v0 class 0", "v0 class X"))
    with pytest.raises(RunDirError, match="was begun with other data"):
        go(path, tmp_path / "r")


def test_bfloat16_trains_close_to_float32(tiny, tmp_path):
    path = tiny()
    go(path, tmp_path / "a")
    go(path, tmp_path / "b", "arms.student.train.precision=bfloat16")
    losses = [
        [
            line["loss"]
            for line in read_metrics(RunDir(tmp_path / name), "arms/student")
            if line["kind"] == "step"
        ]
        for name in "ab"
    ]
    assert losses[0] != losses[1]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.02)
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.2)


def test_two_workers_take_the_steps_of_one(tiny, tmp_path):
    """Gradients summed over two workers (threads here) are those of the whole batch."""
    path = tiny("student.train.log_every=1", "arms.student.backbone.options.normalisation=none")
    recipe = load_recipe(str(path), installed())
    go(path, tmp_path / "one")
    run_dir = RunDir(tmp_path / "two")
    for file in (tmp_path / "one").rglob("specialists/*/*"):
        run_dir.write(str(file.relative_to(tmp_path / "one")), file.read_bytes())
    world = Threads(2)
    workers = [
        threading.Thread(
            target=ArmStage(arm="student").run,
            args=(Context.build(recipe, run_dir, world.of(rank), Quiet()),),
        )
        for rank in range(2)
    ]
    torch_state = torch.get_rng_state()
    for worker in workers:
        # torch's generator is one for all threads: let the workers build their students in turn.
        worker.start()
        world.built.wait(10)
        world.built.clear()
    for worker in workers:
        worker.join(60)
    torch.set_rng_state(torch_state)
    losses = [
        [
            line["loss"]
            for line in read_metrics(RunDir(tmp_path / name), "arms/student")
            if line["kind"] == "step"
        ]
        for name in ("one", "two")
    ]
    assert len(losses[1]) == 12
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_percentages_are_finite_or_null(finished):
    def numbers(value):
        if isinstance(value, dict):
            return [n for v in value.values() for n in numbers(v)]
        return [value] if isinstance(value, float) else []

    assert all(math.isfinite(n) for n in numbers(finished[2]))


def test_a_vertical_without_test_images_has_no_figures_and_ends(tmp_path):
    """Specialist, arms, tables and report: null where nothing can be said."""
    for split, names in (("train", ("a/x", "a/y", "b/z", "b/w")), ("test", ("a/x", "a/y"))):
        for name in names:
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(6):
                Image.new("RGB", (9, 9), (number * 40, len(name) * 60, ord(name[-1]))).save(
                    folder / f"{number}.png"
                )
    data = {"name": "image-folder", "options": {"root": str(tmp_path / "data"), "image_size": 8}}
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(TINY | {"data": data}))
    quiet = Quiet()
    results = run(load_recipe(str(file), installed()), RunDir(tmp_path / "run"), quiet)
    assert results["specialists"]["per_vertical"]["b"]["ap"] is None
    assert results["arms"]["student"]["per_vertical"]["b"]["ap"] is None
    assert results["arms"]["student"]["mpvap"] == results["arms"]["student"]["per_vertical"]["a"]["ap"]
    assert (tmp_path / "run/report.html").exists()
