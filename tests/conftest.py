"""What the tests share: a recipe that runs in a second, and a quiet watcher."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

import pytest
import torch
import yaml

from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from tests.proxy import Proxy

torch.set_num_threads(2)

S3_SECRET = "not-a-real-secret-but-secret"

TINY = {
    "kcframe": 1,
    "name": "tiny",
    "data": {
        "name": "synthetic",
        # Uneven, with a vertical of one class; 50 images are no multiple of 16.
        "options": {"verticals": [5, 1, 3], "train_images": 50, "test_images": 30, "image_size": 8},
    },
    "specialists": {
        "backbone": {"name": "small-cnn", "options": {"widths": [4, 8]}},
        "train": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01},
    },
    "student": {
        "backbone": {"name": "small-cnn", "options": {"widths": [4, 8]}},
        "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
        "objective": "top-k-bce",
        "train": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "log_every": 1},
    },
    "baseline": "generalist",
    "arms": {
        "generalist": {"expander": "fc-fc", "objective": "hard-bce"},
        "student": {"pacing": {"name": "self-paced", "options": {"start": "base-rate"}}},
    },
}


class Quiet:
    """A watcher that keeps what it is told. `stop_at` is a number of steps after which to stop."""

    def __init__(self, stop_at: int | None = None):
        self.stop_at, self.steps, self.begun, self.said = stop_at, 0, [], []

    def plan(self, stages, done): ...

    def begin(self, stage):
        self.begun.append(str(stage))
        return self

    def end(self, stage): ...

    def step(self, step, num_steps, loss):
        self.steps += 1

    def evaluated(self, epoch, evaluation): ...

    def say(self, text):
        self.said.append(text)

    def should_stop(self):
        return self.stop_at is not None and self.steps >= self.stop_at


@pytest.fixture
def tiny(tmp_path: Path):
    """Writes the tiny recipe, with `path=value` changes, and returns its file."""

    def write(*overrides: str) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(TINY, sort_keys=False))
        recipe = load_recipe(str(path), installed(), overrides)
        path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def cluster():
    """The address of one Ray cluster for the whole session: starting one takes seconds to minutes."""
    import ray

    from kcframe.run.backends.ray.cluster import PATIENCE

    patch = pytest.MonkeyPatch()
    for name, value in {**PATIENCE, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}.items():
        patch.setenv(name, value)
    # A submitted job calls `python`: this one, also where its environment is not activated.
    patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    context = ray.init(
        "local",  # not another cluster that happens to run on this machine
        num_cpus=4,
        include_dashboard=True,  # jobs are submitted to it
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        # Workers load what the tests load.
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}},
    )
    yield f"http://{context.dashboard_url}"
    ray.shutdown()
    patch.undo()


@pytest.fixture
def proxy():
    """An S3 server on loopback, behind a proxy."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Proxy(*server.get_host_and_port())
    yield proxy
    proxy.close()
    server.stop()


@pytest.fixture
def bucket(monkeypatch, proxy):
    """The URL of an empty folder in a bucket of that server."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("bucket", exist_ok=True)
    # moto keeps what an earlier server was given.
    yield f"s3://bucket/{uuid.uuid4().hex}"
    s3fs.S3FileSystem.clear_instance_cache()
