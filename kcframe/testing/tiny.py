"""Whole runs that take a second: a tiny recipe with a plugin in it, trained by the real engine here.

Its verticals are uneven, one of them has one class, K is larger than each of them, and with 50 images no
batch has an image of every class.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any

from kcframe.recipe.schema import Recipe
from kcframe.testing.expect import fail, first_difference
from kcframe.testing.runs import Run, load, train_recipe

ARM = "plugin"
STOP_AFTER = 4  # steps: in the middle of the second epoch


def tiny_recipe(student: Mapping[str, Any], teachers: bool = False, **more: Any) -> Recipe:
    """A recipe of one arm. student: laid over its `student` section. teachers: whether to train
    specialists, for objectives that ask them."""
    specialists = {
        "backbone": {"name": "small-cnn", "options": {"widths": [4]}},
        "train": {"epochs": 1, "batch_size": 16, "learning_rate": 0.01},
    }
    tree = {
        "kcframe": 1,
        "name": "tiny",
        "data": {
            "name": "synthetic",
            "options": {"verticals": [5, 1, 3], "train_images": 50, "test_images": 20, "image_size": 8},
        },
        "specialists": specialists if teachers else None,
        "student": {
            "backbone": {"name": "small-cnn", "options": {"widths": [4, 8]}},
            "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
            "objective": "hard-bce",
            "train": {"epochs": 2, "batch_size": 17, "learning_rate": 0.01, "log_every": 1},
            **student,
        },
        "arms": {ARM: {}},
        "execution": {"device": "cpu"},
        **more,
    }
    return load(tree)


def outcome(run: Run) -> dict[str, Any]:
    """The weights of a finished tiny run, and every line of its metrics."""
    return {"metrics": run.metrics(ARM), "weights": run.weights(ARM)}


def whole_run(recipe: Recipe) -> dict[str, Any]:
    """The outcome of a run that nothing interrupts."""
    with tempfile.TemporaryDirectory() as folder:
        return outcome(train_recipe(recipe, folder))


def resumed_run(recipe: Recipe) -> dict[str, Any]:
    """The outcome of a run that is interrupted and continued: all objects are built anew in between."""
    with tempfile.TemporaryDirectory() as folder:
        train_recipe(recipe, folder, STOP_AFTER)
        return outcome(train_recipe(recipe, folder))


@cache
def plain_run() -> dict[str, Any]:
    """The outcome of the tiny recipe as it is."""
    return whole_run(tiny_recipe({}))


def expect_exact_resumption(recipe: Recipe) -> None:
    """End a check unless an interrupted run ends as one that was not interrupted, to the bit."""
    __tracebackhide__ = True
    wanted = whole_run(recipe)
    difference = first_difference(resumed_run(recipe), wanted)
    if difference is None:
        return
    if again := first_difference(whole_run(recipe), wanted):
        fail(
            "two runs with the same seed differ: draw random numbers from torch's default generator alone, "
            f"and keep nothing in the class or the module (first difference: {again})"
        )
    fail(
        f"a run that was stopped after step {STOP_AFTER} and gone on with ends otherwise than one that was "
        "not: what the plugin remembers between steps must be in its state_dict (register_buffer, or "
        f"get_extra_state and set_extra_state) (first difference: {difference})"
    )
