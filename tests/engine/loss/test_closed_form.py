"""The closed form of a block against autograd on the same block, where the equations in float64 do not
reach: short formats, gradients that are added up, images that are left out. (Exactness: test_equations.)"""

from __future__ import annotations

import pytest
import torch

from kcframe.builtin.expanders.layers import FcSc
from kcframe.builtin.expanders.options import FcOptions
from kcframe.builtin.objectives.bce import HardBce, TopKBce, sparse_bce_gradient
from kcframe.builtin.objectives.options import TopKBceOptions
from kcframe.builtin.pacing.options import SelfPacedOptions
from kcframe.builtin.pacing.self_paced import SelfPaced
from kcframe.engine.loss import closed_form
from kcframe.engine.loss.blocks import backward_by_block
from kcframe.engine.loss.closed_form import Workspace
from kcframe.engine.loss.gradient_filter import rows_that_matter
from kcframe.engine.loss.targets import SlotIndex, SlotTargets, block_targets
from kcframe.engine.model import Head
from kcframe.errors import PluginError
from kcframe.interfaces.objective import SparseTargets
from kcframe.interfaces.options import PluginOptions
from kcframe.taxonomy import Taxonomy

SIZES, BATCH, FEATURES = (40, 1, 23), 12, 16
CPU = torch.device("cpu")


@pytest.fixture
def head():
    torch.manual_seed(0)
    return build()


def build(**options):
    expander = FcSc(FcOptions(s1=24, s2=18, **options), FEATURES, SIZES)
    return Head(expander, SelfPaced(SelfPacedOptions(start="base-rate"), SIZES, sum(SIZES)), SIZES)


def targets(seed=0, share=0.1):
    generator = torch.Generator().manual_seed(seed)
    names = {f"v{v}": [f"{v} {c}" for c in range(size)] for v, size in enumerate(SIZES)}
    index = SlotIndex(Taxonomy.build(names), CPU)

    def drawn():
        asked = torch.rand(BATCH, sum(SIZES), generator=generator) < share
        rows, classes = asked.nonzero().T
        return SlotTargets(index, BATCH, rows, classes, torch.rand(len(rows), generator=generator))

    soft, hard = drawn(), drawn()
    return lambda vertical: block_targets(hard, soft, vertical)


def learn(head, objective=None, filter_error=None, workspace=None, times=1, wanted=None):
    """The gradients of all parameters and of the features, after `times` batches."""
    objective = objective or TopKBce(TopKBceOptions(hard_weight=0.5))
    features = torch.randn(BATCH, FEATURES, generator=torch.Generator().manual_seed(1)).requires_grad_()
    head.zero_grad()
    for _ in range(times):
        backward_by_block(
            head,
            objective,
            features,
            wanted or targets(),
            None,
            batch_size=BATCH,
            workspace=workspace,
            filter_error=filter_error,
        )
    return {"features": features.grad.clone()} | {n: p.grad.clone() for n, p in head.named_parameters()}


def relative(found, expected):
    return max(
        float((found[name] - expected[name]).norm() / expected[name].norm().clamp_min(1e-12))
        for name in expected
    )


@pytest.mark.parametrize("tile", [1, 100, closed_form.TILE])
def test_float32_gives_what_float64_gives(head, tile, monkeypatch):
    monkeypatch.setattr(closed_form, "TILE", tile)
    found = learn(head)
    monkeypatch.setattr(TopKBce, "has_closed_form", False)
    head = head.double()
    objective = TopKBce(TopKBceOptions(hard_weight=0.5))
    features = torch.randn(BATCH, FEATURES, generator=torch.Generator().manual_seed(1))
    features = features.double().requires_grad_()
    head.zero_grad()
    backward_by_block(head, objective, features, targets(), None, batch_size=BATCH)
    exact = {"features": features.grad} | {n: p.grad for n, p in head.named_parameters()}
    assert relative({n: g.double() for n, g in found.items()}, exact) < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("tile", [1, 100, closed_form.TILE])
def test_loss_and_accuracies_are_those_of_autograd(head, tile, temperature, monkeypatch):
    """Gradients take their logits' place, a tile at a time: what is counted must have been counted before."""
    head.pacing.uses_accuracy = True
    monkeypatch.setattr(closed_form, "TILE", tile)

    def outcome():
        features = torch.randn(BATCH, FEATURES, generator=torch.Generator().manual_seed(1))
        objective = TopKBce(TopKBceOptions(hard_weight=0.5, temperature=temperature))
        return backward_by_block(
            head, objective, features.requires_grad_(), targets(), None, batch_size=BATCH
        )

    with monkeypatch.context() as patch:
        patch.setattr(TopKBce, "has_closed_form", False)
        wanted = outcome()
    found = outcome()
    assert wanted.tallies.sum() > 0
    assert torch.equal(found.tallies, wanted.tallies)
    for name in ("soft", "hard"):
        torch.testing.assert_close(found.terms[name], wanted.terms[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tile", [1, closed_form.TILE])
def test_a_term_may_be_a_view_of_the_logits(head, tile, monkeypatch):
    class First(HardBce):
        def gradient(self, logits, targets, share, out):
            super().gradient(logits, targets, share, out)
            return {"first": logits[:, 0]}

    monkeypatch.setattr(closed_form, "TILE", tile)
    features = torch.randn(BATCH, FEATURES, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = backward_by_block(head, First(PluginOptions()), features, targets(), None, batch_size=BATCH)
    shared = head.shared(features)
    wanted = torch.stack([head.block(v, shared)[:, 0].mean() for v in range(len(SIZES))])
    torch.testing.assert_close(found.terms["first"], wanted.detach())


@pytest.mark.parametrize(
    ("dtype", "exact"),
    [pytest.param(torch.float32, 2e-6, id="float32"), pytest.param(torch.float64, 1e-12, id="float64")],
)
@pytest.mark.parametrize("unsure", [0, 5])
@pytest.mark.parametrize("height", [-90.0, -12.0, 0.0, 1.9, 2.1, 15.0, 40.0, 90.0])
def test_the_loss_keeps_its_digits_however_sure_a_logit_is(height, unsure, dtype, exact):
    """-log(1 - sigmoid(y)) would be infinite from 17 on, in float32."""
    logits = torch.tensor([[height, height - 1], *[[-9.0, -5.0]] * unsure], dtype=dtype)
    place = torch.tensor([0])
    wanted_at = SparseTargets(place, place, torch.tensor([0.7]), (1 + unsure, 2))
    out = torch.empty_like(logits)
    (found,) = sparse_bce_gradient(logits, out, (wanted_at, 1 / 3))
    y = logits.double().requires_grad_()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        y, wanted_at.dense().double(), reduction="none"
    ).sum(1)
    (wanted.sum() / 3).backward()
    torch.testing.assert_close(found.double(), wanted.detach(), rtol=exact, atol=exact)
    torch.testing.assert_close(out.double(), y.grad, rtol=exact, atol=exact)


def test_bfloat16_is_as_close_as_autograd(head, monkeypatch):
    exact = learn(head)
    with torch.autocast("cpu", torch.bfloat16):
        closed = learn(head)
        monkeypatch.setattr(TopKBce, "has_closed_form", False)
        by_autograd = learn(head)
    assert all(gradient.dtype == torch.float32 for gradient in closed.values())
    assert 1e-5 < relative(closed, exact) < 2 * relative(by_autograd, exact)


def test_a_closed_form_without_terms_is_said_in_the_objectives_name(head):
    class Mute(HardBce):
        def gradient(self, logits, targets, share, out):
            super().gradient(logits, targets, share, out)

    with pytest.raises(PluginError, match=r"Mute: gradient\(\) gave a NoneType, not named terms"):
        learn(head, Mute(PluginOptions()))


def test_gradients_are_added_up(head):
    once, twice = learn(head), learn(head, times=2)
    assert relative(twice, {name: 2 * gradient for name, gradient in once.items()}) < 1e-6


def test_memory_that_is_used_again_changes_nothing(head):
    workspace = Workspace()
    first = learn(head, workspace=workspace)
    head.zero_grad(set_to_none=True)
    again = learn(head, workspace=workspace)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("frozen", ["classifiers", "expander", "pacing"])
def test_frozen_parts_get_no_gradient_and_the_others_the_same(head, frozen):
    everything = learn(head)
    getattr(head, frozen).requires_grad_(False)
    for parameter in head.parameters():
        parameter.grad = None
    features = torch.randn(BATCH, FEATURES, generator=torch.Generator().manual_seed(1)).requires_grad_()
    objective = TopKBce(TopKBceOptions(hard_weight=0.5))
    backward_by_block(head, objective, features, targets(), None, batch_size=BATCH)
    for name, parameter in head.named_parameters():
        if name.startswith(frozen):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, everything[name])
    torch.testing.assert_close(features.grad, everything["features"])


def test_an_error_of_nothing_leaves_nothing_out(head):
    exact, filtered = learn(head), learn(head, filter_error=1e-12)
    assert relative(filtered, exact) < 1e-6


def test_what_is_left_out_costs_no_more_than_was_allowed(head):
    """Half of the images say next to nothing: a trained network's, for another vertical's classes."""
    torch.manual_seed(0)
    gradient, hidden = torch.randn(40, 30), torch.randn(40, 20)
    gradient[::2] *= 1e-5
    kept = rows_that_matter(gradient, hidden, 1e-3)
    assert kept.tolist() == list(range(1, 40, 2))
    exact = gradient.T @ hidden
    assert (gradient[kept].T @ hidden[kept] - exact).norm() < 1e-3 * exact.norm()
    assert len(rows_that_matter(gradient, hidden, 1e-6)) > 20


def test_images_without_any_gradient_can_all_be_left_out(head):
    assert len(rows_that_matter(torch.zeros(4, 3), torch.randn(4, 2), 1e-3)) == 0
    nothing = learn(head, HardBce(PluginOptions()), filter_error=0.5, wanted=targets(share=0.0))
    assert all(gradient.isfinite().all() for gradient in nothing.values())


def test_batch_statistics_need_all_images():
    torch.manual_seed(0)
    head = build(normalisation="batch")
    exact, asked = learn(head), learn(head, filter_error=0.5)
    assert relative(asked, exact) < 1e-6
    torch.manual_seed(0)
    free = build(normalisation="layer")
    assert relative(learn(free, filter_error=0.5), learn(free)) > 1e-3
