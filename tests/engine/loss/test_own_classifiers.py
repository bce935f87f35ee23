"""Classifiers that an expander brings: used by the head, trained or fixed, and said in its name if wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kcframe.builtin.objectives.bce import HardBce
from kcframe.builtin.pacing.none import NoPacing
from kcframe.builtin.pacing.options import SelfPacedOptions
from kcframe.builtin.pacing.self_paced import SelfPaced
from kcframe.engine.loss.blocks import backward_by_block
from kcframe.engine.loss.targets import SlotIndex, SlotTargets, block_targets
from kcframe.engine.model import Head
from kcframe.errors import PluginError
from kcframe.interfaces.expander import Expander
from kcframe.interfaces.options import PluginOptions
from kcframe.taxonomy import Taxonomy

SIZES, FEATURES, BATCH = (4, 1, 3), 5, 6


class Fixed(nn.Module):
    """A matrix that is not learned, and a bias that is."""

    def __init__(self, size, bias):
        super().__init__()
        generator = torch.Generator().manual_seed(size)
        self.register_buffer("weight", torch.randn(size, FEATURES, generator=generator))
        self.bias = nn.Parameter(torch.ones(size)) if bias else None

    def forward(self, hidden):
        return nn.functional.linear(hidden, self.weight, self.bias)


class Bringing(Expander):
    """Brings what `own` makes; the second vertical has the engine's."""

    own = staticmethod(Fixed)

    def __init__(self):
        super().__init__(PluginOptions(), FEATURES, SIZES)
        self.layer = nn.Linear(FEATURES, FEATURES)

    def block(self, vertical, shared):
        return self.layer(shared)

    def block_features(self, vertical):
        return FEATURES

    def classifier(self, vertical, size, bias):
        return None if vertical == 1 else self.own(size, bias)


def build(pacing=None, **options):
    torch.manual_seed(0)
    pacing = pacing or NoPacing(PluginOptions(), SIZES, sum(SIZES))
    return Head(Bringing(), pacing, SIZES, **options)


def test_the_engine_learns_through_them():
    """Against autograd on the dense logits; the fixed matrix has no gradient, all else has."""
    head = build(init_bias=0.5).double()
    taxonomy = Taxonomy.build({f"v{v}": [f"v{v}c{c}" for c in range(n)] for v, n in enumerate(SIZES)})
    z = (torch.rand(BATCH, sum(SIZES)) < 0.3).double()
    rows, classes = z.nonzero().T
    hard = SlotTargets(
        SlotIndex(taxonomy, torch.device("cpu")), BATCH, rows, classes, torch.ones(len(rows)).double()
    )
    features = torch.randn(BATCH, FEATURES).double()
    backward_by_block(
        head,
        HardBce(PluginOptions()),
        features,
        lambda v: block_targets(hard, None, v),
        None,
        batch_size=BATCH,
    )
    found = {name: p.grad.clone() for name, p in head.named_parameters()}
    assert {"classifiers.0.bias", "classifiers.1.weight", "expander.layer.weight"} < set(found)
    assert "classifiers.0.weight" not in found
    head.zero_grad()
    hidden = head.expander.layer(features)
    y = torch.cat([hidden @ c.weight.T + c.bias for c in head.classifiers], 1)
    (nn.functional.binary_cross_entropy_with_logits(y, z, reduction="sum") / BATCH).backward()
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-9)


def test_biases_start_as_the_recipe_and_the_pacing_say():
    for classifier in build(init_bias="base-rate").classifiers:
        assert classifier.bias.tolist() == pytest.approx([-math.log(7)] * len(classifier.bias))
    assert all(classifier.bias is None for classifier in build(bias=False).classifiers)
    options = SelfPacedOptions(start="base-rate")
    for classifier, size in zip(build(SelfPaced(options, SIZES, sum(SIZES))).classifiers, SIZES, strict=True):
        assert classifier.bias.tolist() == [-1] * size
        if size != 1:
            torch.testing.assert_close(classifier.weight, 0.3 * Fixed(size, False).weight)


def test_without_any_the_head_is_as_it_was():
    """The same random numbers in the same order: heads of before this interface can be trained again."""
    torch.manual_seed(3)
    expected = [nn.Linear(FEATURES, size).weight for size in SIZES]
    expander = Bringing()
    expander.own = lambda size, bias: None
    torch.manual_seed(3)
    head = Head(expander, NoPacing(PluginOptions(), SIZES, sum(SIZES)), SIZES)
    for classifier, weight in zip(head.classifiers, expected, strict=True):
        assert torch.equal(classifier.weight, weight)


class Narrow(Fixed):
    def forward(self, hidden):
        return super().forward(hidden)[:, 1:]


class Failing(Fixed):
    def forward(self, hidden):
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        pytest.param(
            lambda size, bias: torch.ones(size),
            r"Bringing: classifier\(\) gave a Tensor, not a module",
            id="no module",
        ),
        pytest.param(
            lambda size, bias: nn.Identity(),
            r"Bringing: the bias of classifier\(\) gave a NoneType",
            id="no bias",
        ),
        pytest.param(
            lambda size, bias: Fixed(size + 1, bias),
            r"the bias of classifier\(\) gave float32 \[5\]",
            id="a bias of a wrong shape",
        ),
        pytest.param(
            lambda size, bias: 1 / 0,
            r"Bringing: classifier\(\) failed: ZeroDivisionError",
            id="an error in classifier()",
        ),
        pytest.param(
            Narrow,
            r"Bringing: its classifier: forward\(\) gave float32 \[6, 3\], not floats \[6, 4\]",
            id="logits of a wrong shape",
        ),
        pytest.param(
            Failing,
            r"Bringing: its classifier: forward\(\) failed: RuntimeError: broken",
            id="an error in forward()",
        ),
    ],
)
def test_what_is_wrong_is_said_in_the_expanders_name(own, message, monkeypatch):
    monkeypatch.setattr(Bringing, "own", staticmethod(own))
    with pytest.raises(PluginError, match=message):
        build().block(0, torch.randn(BATCH, FEATURES))
