"""Pacing `curriculum`: its schedule by hand, its order as measured, and whole runs."""

import math

import pytest
import torch
from kcframe_pacing_curriculum.curriculum import Curriculum
from kcframe_pacing_curriculum.options import CurriculumOptions

from kcframe.errors import PluginError
from kcframe.testing import checked_weights, progress_at, run_recipe

NAN = math.nan


def build(num, **options):
    return Curriculum(CurriculumOptions(**options), (3,) * num, 3 * num)


def at(pacing, step, loss=None, accuracy=None, num_steps=100):
    """The weights of the step after `step` steps, by way of the engine's checks."""
    loss = [1.0] * len(pacing.sizes) if loss is None else loss
    assert (accuracy is not None) == pacing.uses_accuracy
    now = progress_at(step, loss, accuracy=accuracy, teacher_accuracy=accuracy, num_steps=num_steps)
    weights = checked_weights(pacing, now)
    assert torch.equal(weights, pacing.readings()["weight"])
    return weights.tolist()


def test_a_given_order_by_hand():
    pacing = build(4, order=[2, 0, 3, 1], together=0.1, until=0.4)
    assert [at(pacing, step) for step in (0, 9, 10, 19, 20, 29, 30, 39, 40, 99)] == [
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [0, 0, 1, 0],
        [0, 0, 1, 0],
        [1, 0, 1, 0],
        [1, 0, 1, 0],
        [1, 0, 1, 1],
        [1, 0, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
    ]
    assert pacing.readings()["turn"].tolist() == [1, 3, 0, 2]


def test_a_given_order_may_begin_at_once():
    pacing = build(3, order=[1, 2, 0], together=0, until=0.5)
    assert at(pacing, 0) == [0, 1, 0]
    assert not pacing.uses_accuracy


@pytest.mark.parametrize("num_steps", [7, 30, 77, 1000, 12_345])
def test_every_vertical_comes_in_time_whatever_the_number_of_steps(num_steps):
    """Against fractions that are not rounded: turn r comes at the first step at or after 1/10 + r/18."""
    from fractions import Fraction

    pacing = build(10, order=list(range(10)), together=0.1, until=0.6)
    came = {}
    for step in range(num_steps):
        weights = at(pacing, step, num_steps=num_steps)
        assert weights.count(1) + weights.count(0) == 10
        if step * 10 >= num_steps:
            for vertical, weight in enumerate(weights):
                if weight:
                    came.setdefault(vertical, step)
    for turn in range(10):
        assert came[turn] == math.ceil((Fraction(1, 10) + Fraction(turn, 18)) * num_steps)


def test_weights_rise_and_the_least_is_kept():
    pacing = build(2, order=[1, 0], together=0.2, until=0.5, rise=0.1, least=0.25)
    assert at(pacing, 30) == pytest.approx([0.25, 1])
    assert at(pacing, 20) == pytest.approx([0.25, 0.25])
    assert at(pacing, 55) == pytest.approx([0.25 + 0.75 / 2, 1])
    assert at(pacing, 60) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        pytest.param("hardest-last", [1, 3, 0, 2], id="hardest-last"),
        pytest.param("hardest-first", [2, 0, 3, 1], id="hardest-first"),
    ],
)
def test_hardness_by_accuracy(order, expected):
    pacing = build(4, order=order)
    assert at(pacing, 9, accuracy=[0.9, 0.9, 0.9, 0.9]) == [1] * 4
    assert pacing.readings()["turn"].isnan().all()
    first = at(pacing, 10, accuracy=[0.6, 0.2, 0.8, 0.4])
    assert pacing.readings()["turn"].tolist() == expected
    assert first == [float(turn == 0) for turn in expected]
    # Measured once: what comes later does not change it.
    at(pacing, 50, accuracy=[0.1, 0.2, 0.3, 0.4])
    assert pacing.readings()["turn"].tolist() == expected


def test_hardness_by_loss():
    for order, expected in (("hardest-last", [2, 0, 1]), ("hardest-first", [0, 2, 1])):
        pacing = build(3, order=order, hardness="loss")
        at(pacing, 10, loss=[9.0, 1.0, 5.0])
        assert pacing.readings()["turn"].tolist() == expected


def test_unseen_verticals_are_the_hardest_and_the_first_of_equals_comes_first():
    pacing = build(4)
    at(pacing, 10, accuracy=[NAN, 0.5, 0.0, 0.5])
    assert pacing.readings()["turn"].tolist() == [3, 0, 2, 1]
    pacing = build(4, order="hardest-first")
    at(pacing, 10, accuracy=[NAN, 0.5, 0.0, 0.5])
    assert pacing.readings()["turn"].tolist() == [0, 2, 1, 3]


def test_the_order_is_saved():
    pacing, other = build(3), build(3)
    at(pacing, 10, accuracy=[0.1, 0.9, 0.5])
    other.load_state_dict(pacing.state_dict())
    assert at(other, 40, accuracy=[0.9, 0.1, 0.5]) == at(pacing, 40, accuracy=[0.2, 0.2, 0.2]) == [0, 1, 1]


def test_one_vertical_alone_is_never_left_out_after_its_turn():
    for options in ({}, {"order": [0]}, {"order": "hardest-first", "hardness": "loss"}):
        pacing = build(1, **options)
        accuracy = [0.5] if pacing.uses_accuracy else None
        assert [at(pacing, step, accuracy=accuracy) for step in (0, 5, 10, 60)] == [[1]] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"order": [0, 2]}, "every number from 0 to 1 once", id="a vertical left out"),
        pytest.param({"order": [0, 0, 1]}, "every number from 0 to 2 once", id="a vertical twice"),
        pytest.param({"order": [0, -1]}, "greater than or equal to 0", id="a negative vertical"),
        pytest.param({"order": "easiest"}, "hardest-last", id="an unknown order"),
        pytest.param(
            {"together": 0.5, "until": 0.4},
            "until 0.4 is before together 0.5 is over",
            id="the end before the start",
        ),
        pytest.param({"together": 0}, "should be above 0", id="no time to measure hardness"),
        pytest.param({"until": 1}, "less than 1", id="no time for the last vertical"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        CurriculumOptions(**options)


# -- whole runs --------------------------------------------------------------------------------------


def recipe(pacing, verticals=(5, 1, 3)):
    data = {"verticals": list(verticals), "train_images": 50, "test_images": 20, "image_size": 8}
    return {
        "kcframe": 1,
        "name": "tiny",
        "data": {"name": "synthetic", "options": data},
        "student": {
            "backbone": {"name": "small-cnn", "options": {"widths": [4, 8]}},
            "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
            "objective": "hard-bce",
            "pacing": {"name": "curriculum", "options": pacing},
            "train": {"epochs": 5, "batch_size": 16, "learning_rate": 0.02, "log_every": 1},
        },
        "arms": {"a": {}},
    }


@pytest.mark.parametrize("hardness", ["accuracy", "loss"])
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, hardness):
    tree = recipe({"together": 0.3, "until": 0.8, "rise": 0.1, "hardness": hardness})
    whole = run_recipe(tree, tmp_path / "whole")
    steps = whole.metrics("a", "step")
    measured = math.ceil(0.3 * len(steps))
    assert all(None in line["turn"] for line in steps[:measured])
    last = [line["turn"] for line in steps[measured:]]
    assert sorted(last[0]) == [0, 1, 2]
    assert all(turn == last[0] for turn in last)
    figure = "accuracy" if hardness == "accuracy" else "vertical_loss"
    before = steps[measured - 1][figure]
    hard = sorted(range(3), key=lambda v: -before[v] if hardness == "accuracy" else before[v])
    assert [hard.index(v) for v in range(3)] == last[0]
    # Before the measurement, right at it, and after it.
    for stop_after in (measured - 1, measured, measured + 3):
        folder = tmp_path / f"stopped after {stop_after}"
        assert not run_recipe(tree, folder, stop_after=stop_after).finished
        resumed = run_recipe(tree, folder)
        resumed_steps = resumed.metrics("a", "step")
        assert [line["weight"] for line in resumed_steps] == [line["weight"] for line in steps]
        weights = resumed.weights("a")
        assert all(torch.equal(weights[name], value) for name, value in whole.weights("a").items())


def test_a_vertical_that_waits_learns_nothing(tmp_path):
    """Its bias is where it started: gradients of 0 from the start move nothing under AdamW."""
    tree = recipe({"order": [0, 2, 1], "together": 0, "until": 0.99})
    waits = run_recipe(tree, tmp_path / "waits")
    comes = run_recipe(tree, tmp_path / "comes", "student.pacing.options.order=[1, 2, 0]")
    bias = "head.classifiers.1.bias"
    assert float(waits.weights("a")[bias]) == pytest.approx(-math.log(8), abs=0.01)
    assert abs(float(comes.weights("a")[bias]) + math.log(8)) > 0.05


def test_an_order_that_does_not_fit_the_data(tmp_path):
    with pytest.raises(PluginError, match="order has 2 numbers, the data has 3 verticals"):
        run_recipe(recipe({"order": [1, 0]}), tmp_path)


def test_runs_of_one_vertical_and_of_one_step(tmp_path):
    run = run_recipe(recipe({}, [4]), tmp_path / "one vertical")
    assert all(line["weight"] == [1] for line in run.metrics("a", "step"))
    changes = "student.train.epochs=1", "student.train.batch_size=50"
    run = run_recipe(recipe({}), tmp_path / "one step", *changes)
    assert [line["weight"] for line in run.metrics("a", "step")] == [[1, 1, 1]]
