"""Pacing `fade`: both weights by hand, what they do to the loss, and a whole run."""

import math

import pytest
import torch
from kcframe_pacing_curriculum.fade import Fade
from kcframe_pacing_curriculum.options import FadeOptions

from kcframe.testing import checked_weights, modules_loaded_for_options, progress_at, run_recipe


def at(step, sizes=(3, 1), **options):
    """(soft, hard) of the step after `step` of 100, by way of the engine's checks."""
    pacing = Fade(FadeOptions(**options), sizes, sum(sizes))
    by_term = checked_weights(pacing, progress_at(step, loss=[1.0] * len(sizes)))
    assert set(by_term) == {"soft", "hard"}
    assert {name: w.tolist() for name, w in pacing.readings().items()} == {
        f"{name}_weight": w.tolist() for name, w in by_term.items()
    }
    for weights in by_term.values():
        assert weights.shape == (len(sizes),)
        assert (weights == weights[0]).all()
    return float(by_term["soft"][0]), float(by_term["hard"][0])


def test_linear_by_hand():
    assert [at(step) for step in (0, 25, 50, 99)] == [
        (1, 0),
        (0.75, 0.25),
        (0.5, 0.5),
        pytest.approx((0.01, 0.99)),
    ]
    times = {"begin": 0.2, "end": 0.7}
    assert [at(step, **times) for step in (0, 20, 45, 70, 99)] == [
        (1, 0),
        (1, 0),
        (0.5, 0.5),
        (0, 1),
        (0, 1),
    ]


def test_cosine_is_the_closed_form():
    for step in range(100):
        gone = min(max((step / 100 - 0.1) / 0.8, 0), 1)
        hard = (1 - math.cos(math.pi * gone)) / 2
        assert at(step, begin=0.1, end=0.9, shape="cosine") == pytest.approx((1 - hard, hard), abs=1e-6)


def test_parts_may_stay():
    assert at(50, soft_to=0.2, hard_from=0.4, sizes=(2,)) == pytest.approx((0.6, 0.7))
    assert at(0, soft_to=0.2, hard_from=0.4) == pytest.approx((1, 0.4))


def test_a_switch():
    assert [at(step, begin=0.5, end=0.5) for step in (49, 50)] == [(1, 0), (0, 1)]
    assert at(0, begin=0, end=0) == (0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"begin": 0.5, "end": 0.4}, "end 0.4 is before begin 0.5", id="the end before the start"
        ),
        pytest.param({"end": 1.5}, "less than or equal to 1", id="an end after training"),
        pytest.param({"soft_to": -1}, "greater than or equal to 0", id="a negative weight"),
        pytest.param({"shape": "square"}, "linear", id="an unknown shape"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        FadeOptions(**options)


def recipe(pacing, objective):
    backbone = {"name": "small-cnn", "options": {"widths": [4, 8]}}
    train = {"epochs": 3, "batch_size": 16, "learning_rate": 0.02, "log_every": 1}
    data = {"verticals": [5, 1, 3], "train_images": 50, "test_images": 20, "image_size": 8}
    return {
        "kcframe": 1,
        "name": "tiny",
        "data": {"name": "synthetic", "options": data},
        "specialists": {"backbone": backbone, "train": train},
        "student": {
            "backbone": backbone,
            "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
            "objective": objective,
            "pacing": pacing,
            "train": train,
        },
        "arms": {"a": {}},
    }


def test_its_ends_are_runs_with_one_of_the_terms(tmp_path):
    """Never faded: as eq. 2 alone; faded from the first step: as eq. 1 alone."""
    both = {"name": "top-k-bce", "options": {"hard_weight": 1}}
    for times, alone in (({"begin": 1, "end": 1}, "top-k-bce"), ({"begin": 0, "end": 0}, "hard-bce")):
        faded = run_recipe(recipe({"name": "fade", "options": times}, both), tmp_path / f"{alone} faded")
        expected = run_recipe(recipe("none", alone), tmp_path / alone)
        weights = faded.weights("a")
        for name, value in expected.weights("a").items():
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)
        steps = faded.metrics("a", "step")
        assert all(set(line["terms"]) == {"soft", "hard"} for line in steps)
        # What is told is the loss before any weight.
        assert all(min(line["terms"].values()) > 0 for line in steps)


def test_a_recipe_is_checked_without_torch():
    for name in ("curriculum", "fade"):
        assert "torch" not in modules_loaded_for_options("pacing", name)
