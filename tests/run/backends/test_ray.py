"""The Ray backend on a real cluster of this machine: the local one's results, whatever is killed."""

from __future__ import annotations

import os
import signal
import time

import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError

from kcframe.engine.metrics_log import read_metrics
from kcframe.errors import DataError, Interrupted, TrainingError
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import Execution
from kcframe.registry import installed
from kcframe.run.backends.ray.backend import RayBackend
from kcframe.run.backends.ray.cluster import ClusterError, connect, lacking, resources_of_worker
from kcframe.run.backends.ray.outcomes import reason
from kcframe.run.pipeline import run
from kcframe.stages.arm import ArmStage
from kcframe.storage.run_dir import RunDir
from tests.conftest import Quiet
from tests.faults import of_this_process, train_workers

# Long enough that something can happen in the middle, and no batch statistics: they depend on the split.
LONG = (
    "specialists.train.epochs=1",
    "student.train.epochs=80",
    "student.train.evaluate_every=0",
    "student.train.checkpoint_every=3",
    "student.backbone.options.normalisation=none",
)
NO_STATISTICS = ("arms.student.backbone.options.normalisation=none",)


def go(path, run_dir, *overrides, watcher=None):
    watcher = watcher or Quiet()
    recipe = load_recipe(str(path), installed(), overrides)
    return run(recipe, RunDir(run_dir), watcher), watcher


def step_lines(run_dir, arm="student"):
    return [line for line in read_metrics(RunDir(run_dir), f"arms/{arm}") if line["kind"] == "step"]


def assert_same_curve(one, other):
    assert [line["step"] for line in one] == [line["step"] for line in other]
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in other], rel=1e-4)


def test_stages_in_tasks_give_what_this_process_gives(tiny, tmp_path, cluster):
    local, _ = go(tiny(), tmp_path / "local")
    on_ray, watcher = go(tiny(), tmp_path / "ray", "execution.backend=ray")
    assert sorted(watcher.begun) == sorted(
        [*(f"specialist vertical {v}" for v in range(3)), "arm generalist", "arm student"]
    )
    assert_same_curve(step_lines(tmp_path / "ray"), step_lines(tmp_path / "local"))
    assert on_ray["arms"]["student"]["mpvap"] == pytest.approx(local["arms"]["student"]["mpvap"], rel=1e-3)
    assert on_ray["teacher_images_per_image"] == 1.0
    again, watcher = go(tiny(), tmp_path / "ray", "execution.backend=ray")
    assert (again, watcher.begun) == (on_ray, [])


def test_teachers_are_asked_side_by_side_and_arms_read_what_they_said(tiny, tmp_path, cluster, monkeypatch):
    local, _ = go(tiny(), tmp_path / "local")
    monkeypatch.chdir(tmp_path)  # workers are elsewhere
    kept = ("execution.backend=ray", "teacher_cache.url=kept")
    on_ray, watcher = go(tiny(), tmp_path / "ray", *kept)
    assert {f"teacher outputs {i + 1} of 3" for i in range(3)} < set(watcher.begun)
    assert len(list((tmp_path / "kept").glob("*/seed-0/epoch-000[012]/00000.arrow"))) == 9
    curves = [[line["loss"] for line in step_lines(tmp_path / run)] for run in ("ray", "local")]
    assert curves[0] == pytest.approx(curves[1], rel=2e-3)
    assert on_ray["teacher_images_per_image"] == local["teacher_images_per_image"]
    # Two workers, each of which reads what its half of a batch needs.
    go(tiny(), tmp_path / "two", *kept, "execution.workers=2", "teacher_cache.fill=false", *NO_STATISTICS)
    go(tiny(), tmp_path / "one", *kept, "teacher_cache.fill=false", *NO_STATISTICS)
    assert_same_curve(step_lines(tmp_path / "two"), step_lines(tmp_path / "one"))


class Killer(Quiet):
    """Kills a training process of the student, once."""

    killed_at = None

    def step(self, step, num_steps, loss):
        super().step(step, num_steps, loss)
        if self.begun[-1] == "arm student" and self.killed_at is None:
            os.kill(of_this_process(train_workers())[-1], signal.SIGKILL)
            self.killed_at = step


def test_a_worker_group_loses_a_worker_and_one_arm_fails_for_good(tiny, tmp_path, cluster):
    changes = (*LONG, "arms.generalist.train.learning_rate=1000", "arms.generalist.train.optimizer=sgd")
    # The local run leaves the bad arm out.
    go(tiny(*LONG), tmp_path / "local", "arms.generalist.train.epochs=1")
    killer = Killer()
    with pytest.raises(TrainingError) as caught:
        go(tiny(*changes), tmp_path / "ray", "execution.backend=ray", "execution.workers=2", watcher=killer)
    assert "1 of 5 stages failed" in str(caught.value)
    assert "\n  arm generalist: the loss is not finite" in str(caught.value)
    assert killer.killed_at < 320
    assert (tmp_path / "ray/arms/student/result.json").exists()
    assert_same_curve(step_lines(tmp_path / "ray"), step_lines(tmp_path / "local"))


def test_stopped_with_two_workers_and_gone_on_with_in_this_process(tiny, tmp_path, cluster):
    class StopsInTheStudent(Quiet):
        def should_stop(self):
            # At a step, not at its beginning: a worker that hears of it before the first step does none.
            return self.stepped == "arm student"

        stepped = None

        def step(self, step, num_steps, loss):
            self.stepped = self.begun[-1]

    two = ("execution.backend=ray", "execution.workers=2")
    path = tiny(*LONG, "arms.generalist.train.epochs=1")
    with pytest.raises(Interrupted):
        go(path, tmp_path / "ray", *two, watcher=StopsInTheStudent())
    assert 0 < len(step_lines(tmp_path / "ray")) < 320
    assert not (tmp_path / "ray/results.json").exists()
    go(path, tmp_path / "ray")
    go(path, tmp_path / "local")
    assert_same_curve(step_lines(tmp_path / "ray"), step_lines(tmp_path / "local"))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_waits_for_room_is_not_waited_for_at_a_stop(workers, tiny, tmp_path, cluster):
    class Impatient(Quiet):
        def should_stop(self):
            return any("waiting for room" in text for text in self.said)

    path = tiny("arms.student.objective=hard-bce")
    wanted = (
        "specialists=null",
        "execution.resources_per_worker={CPU: 1, special: 1}",
        f"execution.workers={workers}",
    )
    began = time.monotonic()
    with pytest.raises(Interrupted, match="stopped before arm generalist began"):
        go(path, tmp_path / "run", "execution.backend=ray", *wanted, watcher=Impatient())
    assert time.monotonic() - began < 60


def test_a_finished_stage_whose_end_nobody_heard_is_not_trained_again(tiny, tmp_path, cluster):
    path = tiny(*LONG, "arms.generalist.train.epochs=1")
    go(path, tmp_path / "run")
    result = tmp_path / "run/arms/student/result.json"
    before = result.stat().st_mtime_ns
    recipe = load_recipe(str(path), installed(), ["execution.backend=ray"])
    RayBackend().run([ArmStage(arm="student")], recipe, RunDir(tmp_path / "run"), Quiet())
    assert result.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError("birds.jpg: no such file\nsecond line"), "birds.jpg: no such file"),
        (ValueError("first\nCompile with TORCH_USE_CUDA_DSA"), "ValueError: first"),
        (
            WorkerGroupError("…", {0: ActorDiedError(), 1: RuntimeError("[gloo] Connection reset by peer")}),
            "its process or machine was lost too often",
        ),
    ],
)
def test_the_line_that_tells_most_is_said(error, said):
    assert reason(error) == said


def test_what_the_cluster_lacks_is_said(cluster):
    assert lacking({"CPU": 1.0}, 2) is None
    assert lacking({"CPU": 1.0, "GPU": 2.0}, 1) == "1 worker with 1 CPU, 2 GPU each; there is room for 0"
    assert "there is room for" in lacking({"CPU": 1.0}, 10_000)
    assert resources_of_worker(Execution(device="cpu")) == {"CPU": 1.0}
    asked = {"CPU": 2.0, "TPU": 1.0}
    assert resources_of_worker(Execution(resources_per_worker=asked)) == asked


def test_no_cluster_at_an_address(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(*args, **kwargs):
        raise ConnectionError("Ray is trying to start at 10.0.0.1:6379, but is already running elsewhere")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at '10.0.0.1:6379'.*ray start --head"):
        connect(Execution(backend="ray", address="10.0.0.1:6379"))
