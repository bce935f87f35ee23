"""`kcframe submit`, `job logs` and `job stop` against a real cluster."""

from __future__ import annotations

import json
import time

import pytest
import yaml

from kcframe.cli.submit import JobFailed, follow_job, stop_job, submit_recipe
from kcframe.errors import RecipeError
from kcframe.run.backends.ray.cluster import ClusterError
from kcframe.run.backends.ray.jobs import Jobs
from tests.conftest import TINY
from tests.faults import steps_of

# Long enough to be stopped in the middle.
LONG = ["student.train.epochs=400", "student.train.checkpoint_every=5", "student.train.evaluate_every=0"]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "arms": {"student": {}}, "baseline": None}))
    return str(path)


def test_a_job_is_followed_stopped_and_submitted_again(recipe, tmp_path, cluster, capfd):
    run_dir = tmp_path / "run"
    submit_recipe(recipe, LONG, cluster, str(run_dir), wait=False)
    job = capfd.readouterr().out.split()[1]
    until = time.monotonic() + 120
    while not steps_of(run_dir) and time.monotonic() < until:
        time.sleep(0.1)
    stop_job(cluster, job)
    with pytest.raises(JobFailed, match=f"job {job}: stopped"):
        follow_job(cluster, job)
    assert "Everything is saved" in capfd.readouterr().out
    saved = steps_of(run_dir)
    assert 0 < len(saved) < 1600

    submit_recipe(recipe, LONG, cluster, str(run_dir), wait=True)
    out = capfd.readouterr().out
    assert "3 of 4 stages are finished and kept" in out
    assert str(run_dir) in out.splitlines()
    assert steps_of(run_dir) == list(range(1, 1601))
    assert json.loads((run_dir / "results.json").read_text())["arms"]["student"]["mpvap"] is not None


def test_a_job_that_is_not_there(cluster):
    with pytest.raises(ClusterError, match="no job 'nobody'; its jobs: "):
        Jobs(cluster).status("nobody")


def test_mistakes_are_found_before_anything_is_sent(recipe):
    with pytest.raises(RecipeError, match="student.train.epochs"):
        submit_recipe(recipe, ["student.train.epochs=0"], "http://127.0.0.1:9", "s3://b/x", wait=True)
    with pytest.raises(RecipeError, match="--run-dir runs/x: is relative"):
        submit_recipe(recipe, [], "http://127.0.0.1:9", "runs/x", wait=True)
    with pytest.raises(ClusterError, match="no Ray dashboard answers at http://127.0.0.1:9"):
        submit_recipe(recipe, [], "http://127.0.0.1:9", "s3://b/x", wait=True)
