"""What a plugin raises or returns at the engine's boundary is said in its name, with the recipe's line."""

from __future__ import annotations

import math

import pytest
import torch

from kcframe.builtin.objectives.bce import HardBce
from kcframe.engine.plugin_calls import call_plugin
from kcframe.errors import PluginError
from kcframe.interfaces.backbone import Backbone
from kcframe.interfaces.expander import Expander
from kcframe.interfaces.objective import Objective
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing
from kcframe.interfaces.teacher import Teacher, TeacherSource
from kcframe.recipe.load import load_recipe
from kcframe.registry import Component, installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir
from tests.conftest import Quiet


def pacing(**methods):
    return type("Strange", (Pacing,), methods)


def objective(result):
    return type("Strange", (Objective,), {"forward": lambda self, logits, targets: result(logits)})


class Narrow(Expander):
    def block(self, vertical, shared):
        return shared[:, :3]

    def block_features(self, vertical):
        return 4


class Flat(Backbone):
    num_features = 8

    def forward(self, images):
        return images.flatten(1)


class Silent(torch.nn.Module):
    def forward(self, images):
        return torch.full((len(images), 5), math.nan)


class Nan(TeacherSource):
    def teachers(self, context):
        return [
            Teacher("deaf", Silent(), torch.arange(5), channels=1, mean=(0.5,), std=(0.5,), input_size=None)
        ]


class Outside(Nan):
    def teachers(self, context):
        (found,) = super().teachers(context)
        found.label_map += 7
        return [found]


CASES = {
    "weights of a wrong shape": (
        "pacing",
        pacing(weights=lambda self, progress: torch.ones(2)),
        r"weights\(\) gave float32 \[2\], not floats \[3\]",
    ),
    "weights that are no number": (
        "pacing",
        pacing(weights=lambda self, progress: torch.full((3,), math.nan)),
        r"weights\(\) gave numbers that are not finite",
    ),
    "negative weights": (
        "pacing",
        pacing(weights=lambda self, progress: -torch.ones(3)),
        r"weights\(\) gave a negative one",
    ),
    "weights of a term": (
        "pacing",
        pacing(weights=lambda self, progress: {"hard": [1, 2, 3]}),
        r"the weights of term 'hard' of weights\(\) gave a list",
    ),
    "weights of a term that there is not": (
        "pacing",
        pacing(weights=lambda self, progress: {"soft": torch.ones(3)}),
        r"weighs the term 'soft', which .*objective 'hard-bce' of kcframe .* does not have: it has hard",
    ),
    "readings of a wrong shape": (
        "pacing",
        pacing(readings=lambda self: {"pace": torch.ones(4)}),
        r"the reading 'pace' of readings\(\) gave float32 \[4\], not floats \[3\]",
    ),
    "readings under a taken name": (
        "pacing",
        pacing(readings=lambda self: {"loss": torch.ones(3)}),
        r"readings\(\) gave 'loss', which the metrics have already",
    ),
    "a temperature of 0": (
        "pacing",
        pacing(temperatures=lambda self, progress: torch.zeros(3)),
        r"temperatures\(\) gave one that is not above 0",
    ),
    "paced logits of a wrong shape": (
        "pacing",
        pacing(forward=lambda self, logits, vertical: logits.sum(1)),
        r"forward\(\) gave float32 \[\d+\], not floats \[\d+, 5\]",
    ),
    "image weights of a wrong shape": (
        "pacing",
        pacing(image_weights=lambda self, logits, targets: torch.ones(2)),
        r"image_weights\(\) gave float32 \[2\]",
    ),
    "a mistake in a pacing": (
        "pacing",
        pacing(weights=lambda self, progress: progress.los),
        r"weights\(\) failed: AttributeError: .*'los'.*test_plugin_calls.py:\d+\)",
    ),
    "no terms": (
        "objective",
        objective(lambda logits: logits.sum()),
        r"forward\(\) gave a Tensor, not named terms",
    ),
    "a term of a wrong shape": (
        "objective",
        objective(lambda logits: {"all": logits}),
        r"the term 'all' of forward\(\) gave float32 \[\d+, 5\], not floats \[\d+\]",
    ),
    "hidden units": ("expander", Narrow, r"block\(\) gave float32 \[\d+, 3\], not floats \[\d+, 4\]"),
    "features": ("backbone", Flat, r"forward\(\) gave float32 \[\d+, 64\], not floats \[\d+, 8\]"),
    "a teacher's nan": ("teacher", Nan, r"teacher 'deaf': forward\(\) gave numbers that are not finite"),
    "a class that is not there": (
        "teacher",
        Outside,
        r"teacher 'deaf': its label map names class 11, the taxonomy has 0 to 8",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_strange_plugin_is_named_with_its_line(case, tiny, tmp_path, monkeypatch):
    kind, plugin, said = CASES[case]
    component = Component(kind, "strange", "", PluginOptions, plugin, "kcframe-strange", "0.3")
    monkeypatch.setitem(installed().components, (kind, "strange"), component)
    place = "arms.student.teachers.0" if kind == "teacher" else f"arms.student.{kind}"
    path = tiny("specialists=null", "arms.generalist.train.epochs=1")
    if kind != "teacher":
        path = tiny("specialists=null", "arms.generalist.train.epochs=1", "arms.student.objective=hard-bce")
    named = "{name: strange, options: {}}"
    given = f"arms.student.teachers=[{named}]" if kind == "teacher" else f"{place}={named}"
    recipe = load_recipe(str(path), installed(), [given])
    watcher = Quiet()
    with pytest.raises(PluginError, match=said) as raised:
        run(recipe, RunDir(tmp_path / "run"), watcher)
    assert f"--set {place.removesuffix('.0')}=" in str(raised.value)
    assert f"{place}: {kind} 'strange' of kcframe-strange 0.3" in str(raised.value)


def test_memory_that_runs_out_is_nobodys_mistake(monkeypatch):

    class Greedy(HardBce):
        def forward(self, logits, targets):
            raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        call_plugin(Greedy(PluginOptions()), "forward", torch.zeros(1, 1), None)
