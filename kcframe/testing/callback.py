"""The suite of callback plugins."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch

from kcframe.interfaces.callback import Callback, StageInfo
from kcframe.testing.expect import expect, expect_same
from kcframe.testing.runs import train_recipe
from kcframe.testing.suite import PluginSuite
from kcframe.testing.tiny import STOP_AFTER, outcome, plain_run, tiny_recipe

VERTICALS = ("birds", "cars", "dishes")
NUM_STEPS = 12


class CallbackSuite(PluginSuite):
    """Subclass it and name your callback plugin.

    It is told of stages as a run would tell it, and of whole tiny runs. What it must not do: fail, or change
    anything. A run would go on without it; here it is said.
    """

    kind: ClassVar[str] = "callback"

    def make(self) -> Callback:
        return self.construct()

    # -- told by hand ------------------------------------------------------------------------------

    def test_it_hears_a_stage_from_begin_to_end(self):
        with _folder() as folder:
            callback = self.make()
            callback.begin(stage(folder))
            for step in range(1, NUM_STEPS + 1):
                callback.step(logged(step))
                if step % 4 == 0:
                    callback.evaluated(evaluation(step))
            callback.end(True)

    def test_a_stage_may_end_before_its_first_step(self):
        with _folder() as folder:
            callback = self.make()
            callback.begin(stage(folder))
            callback.end(False)

    def test_an_interrupted_stage_goes_on_in_another_object(self):
        with _folder() as folder:
            first = self.make()
            first.begin(stage(folder))
            first.step(logged(1))
            first.end(False)
            second = self.make()
            second.begin(stage(folder, step=1))
            second.step(logged(2))
            second.end(True)

    def test_several_stages_have_an_object_each(self):
        with _folder() as folder:
            both = [self.make(), self.make()]
            for number, callback in enumerate(both):
                callback.begin(stage(folder, name=f"arm {number}"))
            for callback in both:
                callback.step(logged(1))
                callback.evaluated(evaluation(1))
            for callback in both:
                callback.end(True)

    def test_readings_may_have_no_value(self):
        with _folder() as folder:
            callback = self.make()
            callback.begin(stage(folder))
            callback.step({**logged(1), "vertical_loss": [None, None, 0.5], "gamma": [None, 1.0, 2.0]})
            nothing = dict.fromkeys(
                ("mpvap", "top1", "top5", "routed_mpvap", "routed_top1", "effective_rank")
            )
            empty = {name: {"ap": None, "top1": None, "top5": None, "images": 0} for name in VERTICALS}
            callback.evaluated({**evaluation(1), **nothing, "per_vertical": empty})
            callback.end(True)

    def test_it_draws_no_random_numbers(self):
        with _folder() as folder:
            callback = self.make()
            states = torch.get_rng_state(), np.random.get_state()[1].copy()
            callback.begin(stage(folder))
            callback.step(logged(1))
            callback.evaluated(evaluation(1))
            callback.end(True)
            message = "it draws from {}'s generator: what is trained draws from it too; use one of your own"
            expect(torch.equal(torch.get_rng_state(), states[0]), message.format("torch"))
            expect(bool((np.random.get_state()[1] == states[1]).all()), message.format("numpy"))

    # -- told by runs ------------------------------------------------------------------------------

    def test_a_run_ends_the_same_with_it_and_without_it(self):
        recipe = tiny_recipe({}, callbacks=[self.ref.model_dump()])
        with _folder() as folder:
            run = train_recipe(recipe, folder)
            _expect_never_switched_off(run.said)
            expect_same(outcome(run), plain_run(), "what is learned or logged differs because of it")

    def test_it_goes_on_after_an_interruption(self):
        recipe = tiny_recipe({}, callbacks=[self.ref.model_dump()])
        with _folder() as folder:
            _expect_never_switched_off(train_recipe(recipe, folder, STOP_AFTER).said)
            run = train_recipe(recipe, folder)
            _expect_never_switched_off(run.said)
            expect_same(outcome(run), plain_run(), "an interrupted run ends otherwise because of it")


def stage(folder: str, step: int = 0, name: str = "arm +D+SC") -> StageInfo:
    """A stage that is about to begin, in an empty run directory."""
    settings = {"seed": 0, "arm": {"pacing": {"name": "none", "options": {}}, "teachers": []}}
    return StageInfo(name, f"arms/{name}", folder, settings, VERTICALS, step, NUM_STEPS)


def logged(step: int) -> dict[str, Any]:
    """A line of metrics.jsonl: a step."""
    return {
        "kind": "step",
        "step": step,
        "epoch": step / 4,
        "loss": 1.5 / step,
        "terms": {"soft": 1.0 / step, "hard": 0.5 / step},
        "learning_rate": 1e-3,
        "vertical_loss": [0.5, 0.25, 0.75],
        "gamma": [2.0, 1.0, 1.5],
    }


def evaluation(step: int) -> dict[str, Any]:
    """A line of metrics.jsonl: an evaluation."""
    figures = {"mpvap": 50.0, "routed_mpvap": 60.0, "top1": 40.0, "top5": 90.0, "routed_top1": 45.0}
    of_vertical = {
        "ap": 50.0,
        "routed_ap": 60.0,
        "top1": 40.0,
        "top5": 90.0,
        "routed_top1": 45.0,
        "images": 7,
    }
    variety = {"effective_rank": 3.5, "constant_units": 0.0}
    per_vertical = {name: dict(of_vertical) for name in VERTICALS}
    whole = {"kind": "evaluation", "step": step, "epoch": step // 4, **figures, **variety}
    return {**whole, "per_vertical": per_vertical}


def _expect_never_switched_off(lines: list[str]) -> None:
    off = [line for line in lines if "switched off" in line]
    expect(not off, off[0] if off else "")


@contextmanager
def _folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield folder
