"""Whole runs that take a second: a tiny recipe with a plugin in it, trained by the real engine here.

Its verticals are uneven, one of them has one class, K is larger than each of them, and with 50 images no
batch has an image of every class.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kcframe.engine.checkpoint import unpack_weights
from kcframe.engine.metrics_log import read_metrics
from kcframe.errors import Interrupted
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import Recipe
from kcframe.registry import installed
from kcframe.run import pipeline
from kcframe.stages.arm import ArmStage
from kcframe.storage.layout import WEIGHTS
from kcframe.storage.run_dir import RunDir
from kcframe.testing.expect import fail, first_difference

ARM = "arms/plugin"
STOP_AT = 4  # steps: in the middle of the second epoch


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
        "arms": {"plugin": {}},
        "execution": {"device": "cpu"},
        **more,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(yaml.safe_dump(tree, sort_keys=False))
        return load_recipe(str(file), installed())


class Watch:
    """Observes a run and its stages: keeps what is said, and stops after `stop_at` steps of the arm."""

    def __init__(self, stop_at: int | None = None):
        self.stop_at, self.steps, self.said, self.in_arm = stop_at, 0, [], False

    def plan(self, stages, done): ...

    def begin(self, stage):
        self.in_arm = isinstance(stage, ArmStage)
        return self

    def end(self, stage): ...

    def step(self, step, num_steps, loss):
        self.steps += self.in_arm

    def evaluated(self, epoch, evaluation): ...

    def say(self, text):
        self.said.append(text)

    def should_stop(self):
        return self.steps == self.stop_at


def train(recipe: Recipe, folder: str, stop_at: int | None = None) -> Watch:
    """Train a recipe to its end, or for `stop_at` steps of the arm, in this process."""
    watch = Watch(stop_at)
    try:
        pipeline.train(recipe, RunDir(folder), watch)
    except Interrupted:
        if stop_at is None:
            raise
    return watch


def outcome(folder: str) -> dict[str, Any]:
    """What a finished run has learned and written down: weights and every logged line."""
    run_dir = RunDir(folder)
    weights, _ = unpack_weights(run_dir.read(f"{ARM}/{WEIGHTS}"), folder)
    return {"metrics": read_metrics(run_dir, ARM), "weights": weights}


def whole_run(recipe: Recipe) -> dict[str, Any]:
    """The outcome of a run that nothing interrupts."""
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, folder)
        return outcome(folder)


def resumed_run(recipe: Recipe) -> dict[str, Any]:
    """The outcome of a run that is stopped and gone on with: all objects are built anew in between."""
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, folder, STOP_AT)
        train(recipe, folder)
        return outcome(folder)


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
        f"a run that was stopped after step {STOP_AT} and gone on with ends otherwise than one that was not: "
        "what the plugin remembers between steps must be in its state_dict (register_buffer, or "
        f"get_extra_state and set_extra_state) (first difference: {difference})"
    )
