"""Pacing `fade`: both weights by hand, what they do to the loss, and a whole run."""

import json
import math
import subprocess
import sys

import pytest
import torch
import yaml
from kcframe_pacing_curriculum.fade import Fade
from kcframe_pacing_curriculum.options import FadeOptions

from kcframe.engine.checkpoint import unpack_weights
from kcframe.engine.loss.pacing_checks import weights_of
from kcframe.interfaces.pacing import Progress
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir


def at(step, sizes=(3, 1), **options):
    """(soft, hard) of the step after `step` of 100, by way of the engine's checks."""
    pacing = Fade(FadeOptions(**options), sizes, sum(sizes))
    found = weights_of(pacing, Progress(step, 100, step / 10, 10, torch.ones(len(sizes))))
    assert set(found) == {"soft", "hard"}
    assert {name: w.tolist() for name, w in pacing.readings().items()} == {
        f"{name}_weight": w.tolist() for name, w in found.items()
    }
    for weights in found.values():
        assert weights.shape == (len(sizes),)
        assert (weights == weights[0]).all()
    return float(found["soft"][0]), float(found["hard"][0])


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
        ({"begin": 0.5, "end": 0.4}, "end 0.4 is before begin 0.5"),
        ({"end": 1.5}, "less than or equal to 1"),
        ({"soft_to": -1}, "greater than or equal to 0"),
        ({"shape": "square"}, "linear"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        FadeOptions(**options)


class Quiet:
    def begin(self, stage):
        return self

    def __getattr__(self, name):
        return lambda *_: None


def go(folder, pacing, objective):
    backbone = {"name": "small-cnn", "options": {"widths": [4, 8]}}
    train = {"epochs": 3, "batch_size": 16, "learning_rate": 0.02, "log_every": 1}
    data = {"verticals": [5, 1, 3], "train_images": 50, "test_images": 20, "image_size": 8}
    tree = {
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
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    checked = load_recipe(str(folder / "recipe.yaml"), installed(), ["execution.device=cpu"])
    run(checked, RunDir(folder / "run"), Quiet(), lambda text: None, lambda: False)
    arm = folder / "run/arms/a"
    lines = [json.loads(line) for line in (arm / "metrics.jsonl").read_text().splitlines()]
    return unpack_weights((arm / "weights.safetensors").read_bytes(), "w")[0], lines


def test_its_ends_are_runs_with_one_of_the_terms(tmp_path):
    """Never faded: as eq. 2 alone; faded from the first step: as eq. 1 alone."""
    both = {"name": "top-k-bce", "options": {"hard_weight": 1}}
    for times, alone in (({"begin": 1, "end": 1}, "top-k-bce"), ({"begin": 0, "end": 0}, "hard-bce")):
        found, lines = go(tmp_path / f"{alone} faded", {"name": "fade", "options": times}, both)
        expected, _ = go(tmp_path / alone, "none", alone)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
        steps = [line for line in lines if line["kind"] == "step"]
        assert all(set(line["terms"]) == {"soft", "hard"} for line in steps)
        # What is told is the loss before any weight.
        assert all(min(line["terms"].values()) > 0 for line in steps)


def test_a_recipe_is_checked_without_torch():
    check = (
        "import sys; from kcframe.registry import installed; "
        "assert all(installed().options_schema('pacing', name) for name in ('curriculum', 'fade')); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
