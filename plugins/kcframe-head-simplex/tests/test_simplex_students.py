"""Students trained apart: the simplex's features of one are found among those of the other, those before a
learned classifier are not. And whole runs: interrupted, described, in bfloat16."""

import itertools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import yaml

from kcframe.testing import run_recipe

SIZES = (12, 8)
UNITS = {"s1": 32, "s2": 16, "normalisation": "batch"}


def tree(expander="simplex", seed=0, verticals=SIZES, options=None, **train):
    """A recipe with 30 training images a class."""
    data = {"verticals": list(verticals), "train_images": 30 * sum(verticals), "test_images": 300}
    return {
        "kcframe": 1,
        "name": "tiny",
        "seed": seed,
        "data": {"name": "synthetic", "options": {**data, "image_size": 8}},
        "student": {
            "backbone": {"name": "small-cnn", "options": {"widths": [16, 32]}},
            "expander": {"name": expander, "options": {**UNITS, **(options or {})}},
            "objective": "hard-bce",
            "train": {
                "epochs": 8,
                "batch_size": 50,
                "learning_rate": 0.01,
                "evaluate_every": 0,
                **train,
            },
        },
        "arms": {"a": {}},
    }


def student(folder, recipe):
    """A trained student, and the data source that it learned from."""
    run = run_recipe(recipe, folder)
    return run.student("a"), run.source


@torch.inference_mode()
def features(student, source, vertical):
    """Of the vertical's test images: unit vectors [n, d], and their classes int64 [n]."""
    images = source.split("test")
    classes = images.labels.classes.long()
    of_vertical = torch.from_numpy(source.taxonomy.vertical_classes(vertical)).long()
    chosen = torch.isin(classes, of_vertical).nonzero().flatten()
    shared = student.head.shared(student.features(images.load(chosen, None)))
    return F.normalize(student.head.expander.block(vertical, shared), dim=1), classes[chosen]


def share_recognised(gallery, queries):
    """Share of queries whose class's mean is the nearest of the gallery's class means."""
    names = gallery[1].unique()
    means = torch.stack([F.normalize(gallery[0][gallery[1] == name].mean(0), dim=0) for name in names])
    return float((names[(queries[0] @ means.T).argmax(1)] == queries[1]).float().mean())


def cross_tests(folder, expander):
    """(least share of a student among its own features, all shares of one among another's), for three
    seeds."""
    students = [student(folder / f"{expander} {seed}", tree(expander, seed)) for seed in range(3)]
    within, across = [], []
    for vertical in range(len(SIZES)):
        sets = [features(*trained, vertical) for trained in students]
        within += [share_recognised(some, some) for some in sets]
        across += [share_recognised(a, b) for a, b in itertools.permutations(sets, 2)]
    return min(within), across


def test_features_of_students_trained_apart_compare(tmp_path):
    within, across = cross_tests(tmp_path, "simplex")
    assert within > 0.95
    assert min(across) > 0.85  # measured: 0.94 to 0.99
    within, across = cross_tests(tmp_path, "fc-sc")
    assert within > 0.95
    assert max(across) < 0.6  # measured: 0.02 to 0.32; by chance 1 / 12 and 1 / 8


def test_old_features_are_found_by_a_student_of_more_classes(tmp_path):
    """12 classes become 20, with 24 vertices from the start: the old gallery serves the new queries."""
    options = {"vertices": 24}
    figures = []
    for seed in range(2):
        old = student(tmp_path / f"old {seed}", tree(seed=seed, verticals=[12], options=options))
        new = student(tmp_path / f"new {seed}", tree(seed=10 + seed, verticals=[20], options=options))
        gallery = features(*old, 0)
        vectors, classes = features(*new, 0)
        known = classes < 12
        figures.append(share_recognised(gallery, (vectors[known], classes[known])))
    assert min(figures) > 0.8  # measured: 0.90 to 0.99


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path):
    recipe = tree(verticals=[5, 1, 3], options={"vertices": [5, 1, 9]}, epochs=2, batch_size=16)
    whole = run_recipe(recipe, tmp_path / "whole")
    # 270 images in batches of 16 are 17 steps an epoch: in the middle of the first.
    assert not run_recipe(recipe, tmp_path / "stopped", stop_after=9).finished
    weights = run_recipe(recipe, tmp_path / "stopped").weights("a")
    assert all(torch.equal(weights[name], value) for name, value in whole.weights("a").items())


@pytest.mark.parametrize("verticals", [[6], [1]])
def test_one_vertical_alone_in_bfloat16(tmp_path, verticals):
    recipe = tree(verticals=verticals, epochs=1, precision="bfloat16", batch_size=15)
    weights = run_recipe(recipe, tmp_path).weights("a")
    assert all(value.isfinite().all() for value in weights.values())


def test_a_paper_sized_one_is_described_at_once(tmp_path):
    """100,000 classes: as many parameters as fc-sc has."""
    recipe = tree(verticals=[5000] * 20, options={"s1": 4096, "s2": 512})
    recipe["data"]["options"]["train_images"] = 1
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "kcframe", "describe", str(tmp_path / "recipe.yaml")]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PATH": ""}
    ).stdout
    # 32 channels of 4 x 4 places; batch normalisation has two numbers a unit.
    expander = 512 * 4096 + 20 * 4096 * 512 + 512 * 100_000 + 2 * (4096 + 20 * 512)
    assert f"{expander:,}" in said
    assert "100,000" in said
