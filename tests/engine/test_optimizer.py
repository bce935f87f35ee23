"""Which parameter gets which learning rate and weight decay."""

from __future__ import annotations

import pytest
import torch

from kcframe.assembly.networks import build_student
from kcframe.assembly.source import build_source
from kcframe.engine.optimizer import FUSED_FROM, build_optimizer, set_learning_rate
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed


@pytest.mark.parametrize("fused_from", [0, FUSED_FROM])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_step_moves_each_parameter_as_its_group_says(tiny, optimizer, fused_from, monkeypatch):
    """With SGD a step of a gradient of ones is rate x scale x (1 + decay x value), without momentum's
    past."""
    settings = {
        "optimizer": optimizer,
        "learning_rate": 0.5,
        "weight_decay": 0.1,
        "backbone_learning_rate_scale": 0.25,
        "backbone_weight_decay": 0.02,
    }
    changes = [f"student.train.{name}={value}" for name, value in settings.items()]
    pacing = 'student.pacing={"name":"self-paced","options":{"learning_rate_scale":3}}'
    recipe = load_recipe(str(tiny(*changes, pacing)), installed())
    source = build_source(recipe)
    spec = recipe.arms["student"]
    student = build_student(spec, source.channels, source.image_size, source.taxonomy)
    monkeypatch.setattr("kcframe.engine.optimizer.FUSED_FROM", fused_from)
    made = build_optimizer(student, spec.train)
    assert all(group["fused"] is (None if fused_from else True) for group in made.param_groups)
    held = [id(p) for group in made.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in student.parameters() if p.requires_grad)
    set_learning_rate(made, 0.5)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    seen = set()
    for name, parameter in student.named_parameters():
        paced, below = ".pacing." in f".{name}", name.startswith("backbone.")
        rate = 0.5 * (3 if paced else 0.25 if below else 1)
        decay = 0 if paced or parameter.ndim < 2 else 0.02 if below else 0.1
        # AdamW's first step is a gradient's sign.
        expected = before[name] - rate * (1 + decay * before[name])
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-5)
        seen.add((rate, decay))
    assert seen == {(1.5, 0), (0.125, 0), (0.125, 0.02), (0.5, 0), (0.5, 0.1)}


def test_a_backbone_at_rate_zero_stays(tiny, tmp_path):
    from safetensors.torch import load_file

    from kcframe.run.pipeline import run
    from kcframe.storage.run_dir import RunDir
    from tests.conftest import Quiet

    quiet, weights = Quiet(), []
    for epochs in (1, 2):
        changes = ("student.train.backbone_learning_rate_scale=0", f"student.train.epochs={epochs}")
        run(load_recipe(str(tiny(*changes)), installed()), RunDir(tmp_path / f"{epochs}"), quiet)
        weights.append(load_file(tmp_path / f"{epochs}/arms/student/weights.safetensors"))
    one, two = weights
    below = {name for name in one if name.startswith("backbone.") and name.endswith("weight")}
    assert below
    assert all(torch.equal(one[name], two[name]) for name in below)
    assert not all(torch.equal(one[name], two[name]) for name in one if name.startswith("head."))
