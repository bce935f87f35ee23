"""Pacing `curriculum`: its schedule by hand, its order as measured, and whole runs."""

import json
import math

import pytest
import torch
import yaml
from kcframe_pacing_curriculum.curriculum import Curriculum
from kcframe_pacing_curriculum.options import CurriculumOptions

from kcframe.engine.checkpoint import unpack_weights
from kcframe.engine.loss.pacing_checks import weights_of
from kcframe.errors import Interrupted, PluginError
from kcframe.interfaces.pacing import Progress
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir

NAN = math.nan


def build(num, **options):
    return Curriculum(CurriculumOptions(**options), (3,) * num, 3 * num)


def at(pacing, step, loss=None, accuracy=None, num_steps=100):
    """The weights of the step after `step` steps, by way of the engine's checks."""
    loss = torch.ones(len(pacing.sizes)) if loss is None else torch.tensor(loss)
    accuracy = None if accuracy is None else torch.tensor(accuracy)
    assert (accuracy is not None) == pacing.uses_accuracy
    found = weights_of(pacing, Progress(step, num_steps, step / 10, 10, loss, accuracy, accuracy))
    assert torch.equal(found, pacing.readings()["weight"])
    return found.tolist()


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
        found = at(pacing, step, num_steps=num_steps)
        assert found.count(1) + found.count(0) == 10
        if step * 10 >= num_steps:
            for vertical, weight in enumerate(found):
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
    ("order", "expected"), [("hardest-last", [1, 3, 0, 2]), ("hardest-first", [2, 0, 3, 1])]
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
        ({"order": [0, 2]}, "every number from 0 to 1 once"),
        ({"order": [0, 0, 1]}, "every number from 0 to 2 once"),
        ({"order": [0, -1]}, "greater than or equal to 0"),
        ({"order": "easiest"}, "hardest-last"),
        ({"together": 0.5, "until": 0.4}, "until 0.4 is before together 0.5 is over"),
        ({"together": 0}, "should be above 0"),
        ({"until": 1}, "less than 1"),
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


class Watch:
    """Keeps quiet, and asks for a stop after some steps."""

    def __init__(self, stop_at=None):
        self.stop_at, self.steps = stop_at, 0

    def begin(self, stage):
        return self

    def step(self, *_):
        self.steps += 1

    def should_stop(self):
        return self.steps == self.stop_at

    def __getattr__(self, name):
        return lambda *_: None


def go(folder, tree, stop_at=None):
    """Run a recipe -> the arm's weights and logged steps."""
    watch = Watch(stop_at)
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    checked = load_recipe(str(folder / "recipe.yaml"), installed(), ["execution.device=cpu"])
    run(checked, RunDir(folder / "run"), watch, lambda text: None, watch.should_stop)
    arm = folder / "run/arms/a"
    lines = [json.loads(line) for line in (arm / "metrics.jsonl").read_text().splitlines()]
    weights = unpack_weights((arm / "weights.safetensors").read_bytes(), "w")[0]
    return weights, [line for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize("hardness", ["accuracy", "loss"])
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, hardness):
    tree = recipe({"together": 0.3, "until": 0.8, "rise": 0.1, "hardness": hardness})
    weights, steps = go(tmp_path / "whole", tree)
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
    for stop_at in (measured - 1, measured, measured + 3):
        folder = tmp_path / f"stopped at {stop_at}"
        with pytest.raises(Interrupted):
            go(folder, tree, stop_at)
        again, lines = go(folder, tree)
        assert [line["weight"] for line in lines] == [line["weight"] for line in steps]
        assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_a_vertical_that_waits_learns_nothing(tmp_path):
    """Its bias is where it started: gradients of 0 from the start move nothing under AdamW."""
    tree = recipe({"order": [0, 2, 1], "together": 0, "until": 0.99})
    weights, _ = go(tmp_path / "waits", tree)
    tree["student"]["pacing"]["options"]["order"] = [1, 2, 0]
    other, _ = go(tmp_path / "comes", tree)
    bias = "head.classifiers.1.bias"
    assert float(weights[bias]) == pytest.approx(-math.log(8), abs=0.01)
    assert abs(float(other[bias]) + math.log(8)) > 0.05


def test_an_order_that_does_not_fit_the_data(tmp_path):
    with pytest.raises(PluginError, match="order has 2 numbers, the data has 3 verticals"):
        go(tmp_path, recipe({"order": [1, 0]}))


def test_runs_of_one_vertical_and_of_one_step(tmp_path):
    _, steps = go(tmp_path / "one", recipe({}, [4]))
    assert all(line["weight"] == [1] for line in steps)
    tree = recipe({})
    tree["student"]["train"] |= {"epochs": 1, "batch_size": 50}
    _, steps = go(tmp_path / "step", tree)
    assert [line["weight"] for line in steps] == [[1, 1, 1]]
