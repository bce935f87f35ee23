"""`kcframe probe`: features on a task that they were not learned for."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

import kcframe
from kcframe.cli.main import cli
from kcframe.engine.evaluation.evaluate import Settings
from kcframe.errors import DataError
from kcframe.students.probe import _draw, _draw_readable, find_task, score


def probe(*arguments):
    done = CliRunner().invoke(cli, ["probe", *map(str, arguments)], catch_exceptions=False)
    if done.exception is not None:
        raise done.exception
    return done.output


def test_nearest_mean_is_scikit_learns_and_linear_learns():
    draws = np.random.default_rng(0)
    means = draws.normal(0, 1, (5, 8))
    classes = np.repeat(np.arange(5), 12)
    train, test = (means[classes] + draws.normal(0, 0.6, (60, 8)) for _ in range(2))
    linear, nearest = score(train, classes, test, classes)
    reference = NearestCentroid().fit(normalize(train), classes)
    # Cosine and Euclidean distance order unit vectors alike only if the means are of length one too.
    reference.centroids_ = normalize(reference.centroids_)
    assert nearest == pytest.approx(100 * (reference.predict(normalize(test)) == classes).mean())
    assert linear > 80
    assert score(train, classes, draws.normal(0, 1, (60, 8)), classes)[0] < 50


def test_a_class_that_was_not_drawn_is_never_answered():
    train = np.eye(3, dtype=np.float32)
    assert score(train[[0, 2]], np.array([0, 2]), train, np.arange(3))[1] == pytest.approx(200 / 3)


def test_every_draw_has_as_many_of_each_class():
    classes = torch.tensor([0, 1, 2] * 5 + [1] * 7)
    rows = _draw(classes, 3, seed=4)
    assert classes[rows].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert len(rows.unique()) == 9
    assert not torch.equal(rows, _draw(classes, 3, seed=5))


def test_the_table_has_student_untrained_and_specialists(finished, recipe_file, tmp_path):
    said = probe(finished, recipe_file, "--shots", "1,4", "--repeats", 2, "--json", tmp_path / "p.json")
    found = json.loads((tmp_path / "p.json").read_text())
    rows = {(row["features"], row["shots"]): row for row in found["rows"]}
    arm = kcframe.load(finished).arm
    assert [name for name, shots in rows if shots == 1] == [
        f"student ({arm})",
        "the same backbone, untrained",
        "specialist animals",
        "specialist things",
        "all 2 specialists side by side",
    ]
    assert found["classes"] == 5
    assert found["test_images"] == 20
    size = rows[f"student ({arm})", 1]["num_features"]
    assert rows["all 2 specialists side by side", 1]["num_features"] == 2 * size
    for row in rows.values():
        assert len(row["linear"]) == len(row["nearest_mean"]) == 2
    # Colours are easy: features that learned them tell them apart from four pictures.
    assert np.mean(rows[f"student ({arm})", 4]["linear"]) > 80
    assert "accuracy in percent" in said
    again = probe(finished, recipe_file, "--shots", "1,4", "--repeats", 2)
    assert again == said


def test_a_folder_is_halved(finished, pictures):
    transform = kcframe.load(finished).transform
    task = find_task(str(pictures / "train"), (), transform, seed=1)
    assert sorted(task.classes) == list(task.classes)
    assert set(task.classes) == {"bat", "owl", "<b>wren", "kite", "mug"}
    (_, learn, learned), (_, rest, asked) = task.train, task.test
    assert torch.bincount(learned).tolist() == torch.bincount(asked).tolist() == [6] * 5
    assert sorted([*learn.tolist(), *rest.tolist()]) == list(range(60))


def test_pictures_that_cannot_be_read_are_left_out(finished, pictures, tmp_path):
    """The next of the class is drawn for one, and the accuracy is over the others."""
    folder = tmp_path / "spoiled"
    shutil.copytree(pictures, folder)
    before = set(folder.rglob("*.png"))
    classes = sorted({file.parent for file in before})
    for own in classes:
        for number in range(3):
            (own / f"0{number}-bad.png").write_bytes(b"<html>")
    said = probe(finished, folder, "--shots", "1", "--repeats", 3, "--json", tmp_path / "p.json")
    assert "student" in said
    task = find_task(str(folder), (), kcframe.load(finished).transform, 0)
    settings = Settings(4, torch.device("cpu"))
    for drawn in _draw_readable(task, 1, 3, 0, settings):
        names = [task.train[0].name(int(task.train[1][row])) for row in drawn]
        assert len(names) == len(task.classes) == 5
        assert not any("bad" in name for name in names)


def test_too_few_pictures_are_named(finished, recipe_file):
    with pytest.raises(DataError, match="has 12 pictures to learn from, --shots asks for 13"):
        probe(finished, recipe_file, "--shots", "13")


def test_a_task_needs_two_classes(finished, tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "one/a.png")
    with pytest.raises(DataError, match="a task needs two classes"):
        probe(finished, tmp_path, "--shots", "1")
    done = CliRunner().invoke(cli, ["probe", str(finished), str(tmp_path), "--shots", "0,x"])
    assert "'0,x': write numbers of 1 or more, e.g. 1,5,20" in done.output
