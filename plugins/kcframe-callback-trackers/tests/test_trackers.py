"""What a run tells the trackers, read back by the trackers' own readers and compared with metrics.jsonl."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RECIPE = {
    "kcframe": 1,
    "name": "tracked",
    "data": {
        "name": "synthetic",
        "options": {"verticals": [5, 1, 3], "train_images": 50, "test_images": 30, "image_size": 8},
    },
    "student": {
        "backbone": {"name": "small-cnn", "options": {"widths": [4, 8]}},
        "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
        "objective": "hard-bce",
        "train": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "log_every": 1},
    },
    "arms": {"slow": {"pacing": "self-paced"}},
    "callbacks": ["tensorboard", "mlflow"],
}


@pytest.fixture
def kcframe(tmp_path):
    def run(recipe, wait=True):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        command = [sys.executable, "-m", "kcframe", "run", "recipe.yaml", "--run-dir", str(tmp_path / "run")]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return process.communicate()[0] if wait else process

    return run


def lines(run, kind):
    text = (run / "arms/slow/metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]


def tensorboard_scalars(run, name):
    found = EventAccumulator(str(run / "tensorboard/arms/slow")).Reload()
    # tensorboardX writes spaces as underscores.
    return {event.step: event.value for event in found.Scalars(name.replace(" ", "_"))}


def mlflow_run(run):
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    client = MlflowClient(str(run / "mlruns"))
    (experiment,) = client.search_experiments(filter_string="name = 'kcframe'")
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found


def test_both_hold_what_the_run_wrote(kcframe, tmp_path):
    printed = kcframe(RECIPE)
    run = tmp_path / "run"
    assert "switched off" not in printed, printed
    steps, evaluations = lines(run, "step"), lines(run, "evaluation")
    assert len(steps) == 12
    client, found = mlflow_run(run)
    for name, read in {
        "loss": lambda line: line["loss"],
        "terms/hard": lambda line: line["terms"]["hard"],
        "vertical_loss/vertical 2": lambda line: line["vertical_loss"][2],
        "gamma/vertical 0": lambda line: line["gamma"][0],
    }.items():
        expected = {line["step"]: read(line) for line in steps}
        assert tensorboard_scalars(run, name) == pytest.approx(expected, rel=1e-6)
        history = {point.step: point.value for point in client.get_metric_history(found.info.run_id, name)}
        assert history == pytest.approx(expected, rel=1e-6)
    mpvap = {line["step"]: line["mpvap"] for line in evaluations}
    assert tensorboard_scalars(run, "evaluation/mpvap") == pytest.approx(mpvap, rel=1e-6)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "arm slow"
    assert found.data.params["arm.pacing.name"] == "self-paced"


def test_an_interrupted_run_goes_on_in_the_same_mlflow_run(kcframe, tmp_path):
    recipe = {**RECIPE, "student": {**RECIPE["student"]}}
    recipe["student"]["train"] = {**RECIPE["student"]["train"], "epochs": 400}
    process = kcframe(recipe, wait=False)
    run = tmp_path / "run"
    while not (run / "arms/slow/checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    client, found = mlflow_run(run)
    assert found.info.status == "KILLED"
    assert "switched off" not in kcframe(recipe)
    client, found = mlflow_run(run)
    assert found.info.status == "FINISHED"
    told = [point.step for point in client.get_metric_history(found.info.run_id, "loss")]
    assert sorted(told) == list(range(1, 1601))
    assert set(tensorboard_scalars(run, "loss")) == {line["step"] for line in lines(run, "step")}


def test_a_server_that_does_not_answer_costs_no_run(kcframe, tmp_path):
    dead = {"name": "mlflow", "options": {"tracking_uri": str(tmp_path / "file"), "experiment": "x"}}
    (tmp_path / "file").write_text("not a folder")
    printed = kcframe({**RECIPE, "callbacks": [dead, "tensorboard"]})
    off = "callback 'mlflow' of kcframe-callback-trackers 0.1.0 is switched off for this stage: begin()"
    assert off in printed
    assert len(lines(tmp_path / "run", "step")) == 12
    assert len(tensorboard_scalars(tmp_path / "run", "loss")) == 12
