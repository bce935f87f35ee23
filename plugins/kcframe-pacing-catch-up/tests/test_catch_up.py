"""Pacing `catch-up` against LFME's formula in plain Python, and in whole runs."""

import math
from itertools import pairwise

import pytest
import torch
from kcframe_pacing_catch_up.catch_up import CatchUp
from kcframe_pacing_catch_up.options import CatchUpOptions

from kcframe.errors import PluginError
from kcframe.testing import (
    build_plugin,
    checked_weights,
    head_gradients,
    make_head,
    make_targets,
    modules_loaded_for_options,
    progress_at,
    run_recipe,
)

NAN = math.nan


def soft_weights(student, teacher, **options):
    """The soft term's weight of each vertical, for the accuracies of student and teacher."""
    sizes = (3,) * len(student)
    pacing = CatchUp(CatchUpOptions(**options), sizes, sum(sizes))
    now = progress_at(1, loss=[1.0] * len(sizes), accuracy=student, teacher_accuracy=teacher)
    weights = checked_weights(pacing, now)
    assert list(weights) == ["soft"]
    assert torch.equal(pacing.readings()["soft_weight"], weights["soft"])
    return weights["soft"].tolist()


def lfme(student, teacher, a):
    """The formula as it is written, for one vertical."""
    if student < a * teacher:
        return 1.0
    return max(0.0, (teacher - student) / (teacher * (1 - a)))


def test_by_hand():
    # (0.8 - 0.4) / (0.8 * 0.7), and 0.2 is below 0.3 * 0.8.
    assert soft_weights([0.4, 0.2, 0.8, 0.9], [0.8] * 4) == pytest.approx([0.714286, 1, 0, 0], abs=1e-6)
    assert soft_weights([0.25, 0.5, 0.75], [1.0] * 3, threshold=0.5) == pytest.approx([1, 1, 0.5])


@pytest.mark.parametrize("a", [0.0, 0.3, 0.99])
def test_it_is_the_formula_wherever_that_is_defined(a):
    grid = [(s / 20, t / 20) for s in range(21) for t in range(1, 21)]
    student, teacher = zip(*grid, strict=True)
    expected = [lfme(s, t, a) for s, t in grid]
    assert soft_weights(student, teacher, threshold=a) == pytest.approx(expected, abs=2e-5)


def test_it_never_jumps_below_a_threshold_of_1():
    student = [s / 10_000 for s in range(10_001)]
    weights = soft_weights(student, [0.7] * len(student))
    assert max(a - b for a, b in pairwise(weights)) < 3e-4
    assert weights == sorted(weights, reverse=True)


def test_a_threshold_of_1_is_a_step():
    assert soft_weights([0.0, 0.79, 0.8, 1.0], [0.8] * 4, threshold=1) == [1, 1, 0, 0]


def test_what_is_not_known_and_what_is_nothing():
    assert soft_weights([NAN, NAN, 0.5], [NAN, 0.5, NAN]) == [1, 1, 1]
    for a in (0, 0.3, 1):
        assert soft_weights([0.0, 0.2], [0.0, 0.0], threshold=a) == [0, 0]
    assert soft_weights([0.0], [1.0], threshold=0) == [1]


def test_the_least_is_kept():
    assert soft_weights([0.9, 0.1, 0.79, 0.0], [0.8, 0.8, 0.8, 0.0], least=0.25) == [0.25, 1, 0.25, 0.25]


def test_it_weighs_the_soft_term_alone():
    """Against the gradient of a dense float64 loss, sum over v of w_v * soft_v + hard_v."""
    torch.manual_seed(0)
    sizes, batch = (4, 1, 3), 5
    pacing = CatchUp(CatchUpOptions(), sizes, sum(sizes))
    head = make_head(sizes, pacing=pacing, num_features=3).double()
    soft = torch.rand(batch, sum(sizes), dtype=torch.float64)
    hard = (torch.rand(batch, sum(sizes)) < 0.3).double()
    now = progress_at(1, loss=[1.0] * 3, accuracy=[0.5, 0.1, 0.9], teacher_accuracy=[0.9] * 3)
    objective = build_plugin("objective", "top-k-bce", options={"hard_weight": 2.0})
    features = torch.randn(batch, 3, dtype=torch.float64)
    engine = head_gradients(head, objective, features, make_targets(sizes, hard, soft), pacing.weights(now))
    y = torch.cat([c(features) for c in head.classifiers], 1)
    w = torch.repeat_interleave(torch.tensor([lfme(0.5, 0.9, 0.3), 1.0, 0.0]), torch.tensor(sizes))

    def cross_entropy(z):
        return -(z * y.sigmoid().log() + (1 - z) * (-y).sigmoid().log())

    ((w * cross_entropy(soft) + 2 * cross_entropy(hard)).sum() / batch).backward()
    for vertical, classifier in enumerate(head.classifiers):
        by_block = engine.gradients[f"classifiers.{vertical}.weight"]
        torch.testing.assert_close(by_block, classifier.weight.grad, rtol=1e-6, atol=1e-8)


# -- whole runs --------------------------------------------------------------------------------------


def recipe(**student):
    data = {"verticals": [5, 1, 3], "train_images": 50, "test_images": 20, "image_size": 8, "noise": 0.1}
    backbone = {"name": "small-cnn", "options": {"widths": [4, 8]}}
    return {
        "kcframe": 1,
        "name": "tiny",
        "data": {"name": "synthetic", "options": data},
        "specialists": {
            "backbone": backbone,
            "train": {"epochs": 12, "batch_size": 16, "learning_rate": 0.03},
        },
        "student": {
            "backbone": backbone,
            "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
            "objective": {"name": "top-k-bce", "options": {"hard_weight": 1}},
            "pacing": "catch-up",
            "train": {"epochs": 6, "batch_size": 16, "learning_rate": 0.02, "log_every": 1},
            **student,
        },
        "arms": {"a": {}},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_recipe(recipe(), tmp_path_factory.mktemp("whole"))


def test_the_metrics_show_the_formula_of_the_step_before(whole):
    steps = whole.metrics("a", "step")
    assert len(steps) == 24
    seen = set()
    for before, after in pairwise(steps):
        for s, t, w in zip(before["accuracy"], before["teacher_accuracy"], after["soft_weight"], strict=True):
            expected = 1.0 if None in (s, t) else lfme(s, t, 0.3) if t else 0.0
            assert w == pytest.approx(expected, abs=1e-4)
            seen.add("full" if w == 1 else "none" if w == 0 else "part")
    assert {"full", "part"} <= seen
    # A vertical of one class has no wrong answers, so nothing is left to catch up with.
    assert steps[-1]["soft_weight"][1] == 0


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, whole):
    assert not run_recipe(recipe(), tmp_path, stop_after=10).finished
    resumed = run_recipe(recipe(), tmp_path)
    soft_weights, expected = (
        [line.get("soft_weight") for line in run.metrics("a")] for run in (resumed, whole)
    )
    assert soft_weights == expected
    weights = resumed.weights("a")
    assert all(torch.equal(weights[name], value) for name, value in whole.weights("a").items())


def test_without_teachers_a_run_says_what_to_do(tmp_path):
    with pytest.raises(PluginError, match="pacing 'catch-up'.* weighs the term 'soft', which .*'hard-bce'"):
        run_recipe(recipe(objective="hard-bce"), tmp_path)


def test_one_vertical_alone(tmp_path):
    run = run_recipe(recipe(), tmp_path, "data.options.verticals=[4]")
    assert all(len(line["soft_weight"]) == 1 for line in run.metrics("a", "step"))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"threshold": -0.1}, id="a negative threshold"),
        pytest.param({"threshold": 1.1}, id="a threshold above 1"),
        pytest.param({"least": 2}, id="a least weight above 1"),
        pytest.param({"treshold": 0.3}, id="a misspelt option"),
    ],
)
def test_options(options):
    with pytest.raises(ValueError, match="threshold|least|treshold"):
        CatchUpOptions(**options)


def test_a_recipe_is_checked_without_torch():
    assert "torch" not in modules_loaded_for_options("pacing", "catch-up")
