"""A whole run on s3://, served by moto's server on loopback."""

from __future__ import annotations

import os

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

import kcframe
from kcframe.errors import Interrupted, RunDirError, StorageError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir
from kcframe.students.export import export
from kcframe.students.picture_files import list_files, read_pictures
from tests.conftest import S3_SECRET, Quiet


def test_a_run_is_kept_interrupted_and_resumed_on_object_storage(tiny, tmp_path, bucket):
    recipe = load_recipe(str(tiny()), installed())
    quiet = Quiet(stop_at=14)
    with pytest.raises(Interrupted):
        run(recipe, RunDir(bucket), quiet)
    again = Quiet()
    stored = run(recipe, RunDir(bucket), again)
    assert any("stages are finished and kept" in line for line in again.said)
    local = run(recipe, RunDir(tmp_path / "local"), again)
    assert stored == local
    # The finished student is used from there, and exported to there.
    student = kcframe.load(f"{bucket}:student")
    here = kcframe.load(tmp_path / "local", "student")
    images = torch.rand(3, 1, 8, 8)
    assert student.predict(images) == here.predict(images)
    found = export(student, "safetensors", f"{bucket}/out/s.safetensors", None, None)
    assert found.difference == 0
    assert kcframe.load(f"{bucket}/out/s.safetensors").predict(images) == here.predict(images)
    places, _ = list_files([f"{bucket}/samples"])
    assert places[0].name == f"{bucket}/samples/000.png"
    assert next(read_pictures(places, student.transform, 1))[0].pixels.shape == (8, 8, 1)

    run_dir = RunDir(bucket)
    assert run_dir.folders("arms") == ["generalist", "student"]
    kept = run_dir._fs.find(bucket)
    assert len(kept) > 25
    for name in kept:
        assert S3_SECRET.encode() not in run_dir._fs.cat_file(name), name


def test_a_storage_that_goes_away_for_a_while(tiny, tmp_path, bucket, proxy):
    recipe = load_recipe(str(tiny()), installed())

    class Outage(Quiet):
        def step(self, step, num_steps, loss):
            super().step(step, num_steps, loss)
            if self.steps == 14:
                proxy.go_down(seconds=3)

    watcher = Outage()
    stored = run(recipe, RunDir(bucket), watcher)
    assert proxy.refused > 0
    assert stored == run(recipe, RunDir(tmp_path / "local"), Quiet())


def test_a_storage_that_never_answers_is_an_error_in_words(monkeypatch, tiny):
    monkeypatch.setattr("kcframe.storage.run_dir.PAUSES_AT_FIRST", (0.01, 0.01))
    recipe = load_recipe(str(tiny()), installed())
    tried = []

    class Broken(MemoryFileSystem):
        cachable = False

        def exists(self, path, **kwargs):
            tried.append(path)
            raise ConnectionResetError("reset by peer")

    run_dir = RunDir("memory://broken")
    run_dir._filesystem = Broken()
    with pytest.raises(StorageError, match="memory://broken/.*: ConnectionResetError: reset by peer"):
        run(recipe, run_dir, Quiet())
    assert len(tried) == 3


def test_a_bucket_that_is_not_there_is_an_error_in_words(tiny, bucket):
    recipe = load_recipe(str(tiny()), installed())
    with pytest.raises(RunDirError, match="s3://nowhere/x/.*cannot be written") as caught:
        run(recipe, RunDir("s3://nowhere/x"), Quiet())
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
