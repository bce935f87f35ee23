"""The moving average of weights, against the same average computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import kcframe
from kcframe.assembly.source import build_source
from kcframe.engine.checkpoint import unpack
from kcframe.engine.data.split import Split
from kcframe.engine.ema import AveragedWeights
from kcframe.engine.evaluation.evaluate import Settings, evaluate
from kcframe.errors import Interrupted
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir
from tests.conftest import TINY, Quiet

EMA = ("student.train.ema=0.8",)


def by_hand(history, decay):
    """The average of weights [steps + 1], which begin with the start."""
    average = np.float64(history[0])
    for step, value in enumerate(history[1:]):
        d = min(decay, (1 + step) / (10 + step))
        average = d * average + (1 - d) * value
    return average


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_it_is_the_average_by_hand_with_its_warm_up(decay):
    module = nn.BatchNorm1d(1).double()
    ema, history = AveragedWeights(module, decay), []
    for step in range(30):
        history.append((float(module.weight.detach()), float(module.running_mean)))
        with torch.no_grad():
            module.weight.fill_(step**0.5)
            module.running_mean.fill_(-step)
            module.num_batches_tracked.fill_(step)
        ema.update(step)
    history.append((float(module.weight.detach()), float(module.running_mean)))
    with ema.applied():
        assert float(module.weight.detach()) == pytest.approx(by_hand([w for w, _ in history], decay))
        assert float(module.running_mean) == pytest.approx(by_hand([m for _, m in history], decay))
        assert int(module.num_batches_tracked) == 29
    assert (float(module.weight.detach()), float(module.running_mean)) == history[-1]


def test_the_module_gets_its_own_weights_back_whatever_happens():
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    ema = AveragedWeights(module, 0.5)
    with torch.no_grad():
        module.weight.add_(1)

    def fail():
        with ema.applied():
            assert torch.equal(module.weight, before)
            raise RuntimeError("evaluation failed")

    with pytest.raises(RuntimeError, match="evaluation failed"):
        fail()
    assert torch.equal(module.weight, before + 1)


@pytest.fixture
def one_arm(tmp_path):
    """Runs one self-paced arm with batch statistics; returns its results and recipe."""

    def one_arm(name, *overrides, stop_at=None):
        arm = {"objective": "hard-bce", **TINY["arms"]["student"]}
        tree = {**TINY, "arms": {"student": arm}, "baseline": None, "specialists": None}
        file = tmp_path / "one.yaml"
        file.write_text(yaml.safe_dump(tree, sort_keys=False))
        recipe = load_recipe(str(file), installed(), overrides)
        return run(recipe, RunDir(tmp_path / name), Quiet(stop_at)), recipe

    return one_arm


def test_figures_and_saved_weights_are_the_averages(one_arm, tmp_path):
    results, recipe = one_arm("run", *EMA)
    raw, _ = one_arm("raw")
    averaged = load_file(tmp_path / "run/arms/student/weights.safetensors")
    plain = load_file(tmp_path / "raw/arms/student/weights.safetensors")
    assert averaged.keys() == plain.keys()
    changed = {name for name in plain if not torch.equal(averaged[name], plain[name])}
    assert "head.pacing.gamma.0" in changed
    assert any("running_mean" in name for name in changed)
    assert results["arms"]["student"]["mpvap"] != raw["arms"]["student"]["mpvap"]
    # What is saved, measured by itself, has the figures of the run.
    source = build_source(recipe)
    student = kcframe.load(tmp_path / "run").student
    split = Split.of(source, "test").that_can_be_measured_on()
    again = evaluate(student, split, source.taxonomy, Settings(512, torch.device("cpu")))
    assert again.mean("ap") == pytest.approx(results["arms"]["student"]["mpvap"], abs=1e-9)


def test_training_itself_does_not_know_of_it_and_the_raw_weights_are_in_the_checkpoint(one_arm, tmp_path):
    saved = {}
    for name, more in (("with", EMA), ("without", ())):
        with pytest.raises(Interrupted):
            one_arm(name, *more, stop_at=6)
        file = tmp_path / name / "arms/student/checkpoint.safetensors"
        saved[name] = unpack(file.read_bytes(), str(file))
    for key, values in saved["without"]["model"].items():
        assert torch.equal(saved["with"]["model"][key], values), key
    assert saved["without"]["ema"] is None
    assert saved["with"]["ema"].keys() == saved["with"]["model"].keys()
    gammas = [saved["with"][part]["head.pacing.gamma.0"] for part in ("ema", "model")]
    assert not torch.equal(*gammas)


def test_a_stopped_run_ends_with_the_same_average(one_arm, tmp_path):
    whole, _ = one_arm("whole", *EMA)
    with pytest.raises(Interrupted):
        one_arm("cut", *EMA, stop_at=7)
    again, _ = one_arm("cut", *EMA)
    assert again == whole
    files = [load_file(tmp_path / name / "arms/student/weights.safetensors") for name in ("whole", "cut")]
    for key, values in files[0].items():
        assert torch.equal(files[1][key], values), key
