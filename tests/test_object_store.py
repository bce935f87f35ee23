"""A whole run on s3://, served by moto's server on loopback."""

from __future__ import annotations

import os

import pytest

from kcframe.errors import Interrupted, RunDirError
from kcframe.pipeline import run
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run_dir import RunDir
from tests.conftest import Quiet

SECRET = "not-a-real-secret-but-secret"


@pytest.fixture
def bucket(monkeypatch):
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("runs", exist_ok=True)
    yield "s3://runs/tiny"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_run_is_kept_interrupted_and_resumed_on_object_storage(tiny, tmp_path, bucket):
    recipe = load_recipe(str(tiny()), installed())
    quiet = Quiet(stop_at=14)
    with pytest.raises(Interrupted):
        run(recipe, RunDir(bucket), quiet, quiet.say, quiet.should_stop)
    again = Quiet()
    stored = run(recipe, RunDir(bucket), again, again.say)
    assert any("stages are finished and kept" in line for line in again.said)
    local = run(recipe, RunDir(tmp_path / "local"), Quiet(), again.say)
    assert stored == local

    run_dir = RunDir(bucket)
    assert run_dir.folders("arms") == ["generalist", "student"]
    kept = run_dir._fs.find(bucket)
    assert len(kept) > 25
    for name in kept:
        assert SECRET.encode() not in run_dir._fs.cat_file(name), name


def test_a_bucket_that_is_not_there_is_an_error_in_words(tiny, bucket):
    recipe = load_recipe(str(tiny()), installed())
    with pytest.raises(RunDirError, match="s3://nowhere/x/.*cannot be written") as caught:
        run(recipe, RunDir("s3://nowhere/x"), Quiet(), print)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
