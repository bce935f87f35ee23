"""Equations 1-4 against a dense float64 reference written out here, one sum at a time.

The reference shares nothing with the engine: no sparse targets, no blocks, no softplus. It loops over
images and classes as the equations do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kcframe.builtin.expanders.layers import FcFc, FcSc, FcScShared, ScSc
from kcframe.builtin.expanders.options import FcOptions, FcScSharedOptions
from kcframe.builtin.objectives.bce import HardBce, TopKBce
from kcframe.builtin.objectives.options import TopKBceOptions
from kcframe.builtin.pacing.none import NoPacing
from kcframe.builtin.pacing.options import SelfPacedOptions
from kcframe.builtin.pacing.self_paced import SelfPaced
from kcframe.engine.loss import closed_form
from kcframe.engine.loss.blocks import backward_by_block
from kcframe.engine.loss.targets import SlotIndex, SlotTargets, block_targets
from kcframe.engine.model import Head
from kcframe.interfaces.options import PluginOptions
from kcframe.taxonomy import Taxonomy

EXPANDERS = {
    "fc-fc": (FcFc, FcOptions(s1=7, s2=5)),
    "fc-sc": (FcSc, FcOptions(s1=7, s2=5)),
    "sc-sc": (ScSc, FcOptions(s1=4, s2=5)),
    "fc-sc-shared": (FcScShared, FcScSharedOptions(s1=7, s2=5, x=2)),
}
WAYS = ("closed form", "closed form, few images at a time", "autograd")
VARIANTS = {
    "none": None,
    "1": SelfPacedOptions(trainable=False, variance=0),
    "2": SelfPacedOptions(init=10),
    "3": SelfPacedOptions(level="class", init=10),
    "4": SelfPacedOptions(),
    "5": SelfPacedOptions(level="class"),
    "base-rate": SelfPacedOptions(start="base-rate"),
}


def dense_logits(head: Head, name: str, variant: str, features: torch.Tensor) -> torch.Tensor:
    """The whole [B, S] matrix of y by plain matrix products, from the head's parameters."""
    weights = dict(head.named_parameters())
    columns = []
    relu = torch.relu
    for v in range(len(head.sizes)):
        if name == "fc-fc":
            hidden = relu(
                relu(features @ weights["expander.layers.0.0.weight"].T)
                @ weights["expander.layers.1.0.weight"].T
            )
        elif name == "fc-sc":
            first = relu(features @ weights["expander.first.0.weight"].T)
            hidden = relu(first @ weights[f"expander.blocks.{v}.0.weight"].T)
        elif name == "sc-sc":
            first = relu(features @ weights[f"expander.blocks.{v}.0.0.weight"].T)
            hidden = relu(first @ weights[f"expander.blocks.{v}.1.0.weight"].T)
        else:
            first = relu(features @ weights["expander.first.0.weight"].T)
            common = relu(first @ weights["expander.common.0.weight"].T)
            own = relu(first @ weights[f"expander.blocks.{v}.0.weight"].T)
            hidden = torch.cat([common, own], 1)
        x = hidden @ weights[f"classifiers.{v}.weight"].T + weights[f"classifiers.{v}.bias"]
        if variant != "none":
            gamma = weights[f"pacing.gamma.{v}"]
            x = gamma * x / x.pow(2).sum(1, keepdim=True).sqrt() if x.shape[1] > 1 else gamma * x
        columns.append(x)
    return torch.cat(columns, 1)


def dense_cross_entropy(y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """-(1/B) sum_i sum_j [z log s(y) + (1 - z) log(1 - s(y))], as written, with 1 - s(y) = s(-y)."""
    s, not_s = 1 / (1 + (-y).exp()), 1 / (1 + y.exp())
    total = y.new_zeros(())
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            total = total - (z[i, j] * s[i, j].log() + (1 - z[i, j]) * not_s[i, j].log())
    return total / y.shape[0]


def build_head(name: str, variant: str, sizes: tuple[int, ...], num_features: int) -> Head:
    kind, options = EXPANDERS[name]
    choice = VARIANTS[variant]
    pacing = (
        NoPacing(PluginOptions(), sizes, sum(sizes))
        if choice is None
        else SelfPaced(choice, sizes, sum(sizes))
    )
    head = Head(kind(options, num_features, sizes), pacing, sizes, init_bias=0.3).double()
    with torch.no_grad():  # biases that differ, so that none of them is tested at one value
        for classifier in head.classifiers:
            classifier.bias.add_(torch.randn_like(classifier.bias) * 0.2)
    return head


def random_targets(taxonomy: Taxonomy, batch: int, density: float) -> tuple[torch.Tensor, ...]:
    dense = torch.rand(batch, taxonomy.num_classes) * (torch.rand(batch, taxonomy.num_classes) < density)
    rows, classes = dense.nonzero().T
    return rows, classes, dense[rows, classes].double()


def to_slots(taxonomy: Taxonomy, batch: int, rows, classes, values) -> torch.Tensor:
    dense = torch.zeros(batch, taxonomy.num_classes, dtype=torch.float64)
    dense[rows, classes] = values
    return dense[:, torch.from_numpy(taxonomy.slot_class).long()]


def taxonomy_of(sizes: tuple[int, ...], overlap: bool) -> Taxonomy:
    verticals = {f"v{v}": [f"v{v}c{c}" for c in range(n)] for v, n in enumerate(sizes)}
    if overlap and len(sizes) > 1:
        verticals["v1"][-1] = "v0c0"
    return Taxonomy.build(verticals)


@dataclass(frozen=True, kw_only=True)
class Case:
    """sizes: (N_1, …, N_M). expander: of EXPANDERS. variant: of VARIANTS, the pacing. batch: images.
    density: the share of classes with a soft target. overlap: whether a class stands in two verticals. way:
    of WAYS."""

    sizes: tuple[int, ...] = (4, 1, 6)
    expander: str
    variant: str
    temperature: float = 1.0
    hard_weight: float = 0.0
    batch: int = 5
    density: float = 0.4
    overlap: bool = False
    seed: int = 0
    way: str


def compare(case: Case) -> None:
    """Engine and reference have the same loss and the same gradients."""
    sizes, batch = case.sizes, case.batch
    torch.manual_seed(case.seed)
    taxonomy = taxonomy_of(sizes, case.overlap)
    head = build_head(case.expander, case.variant, sizes, 6)
    soft, hard = random_targets(taxonomy, batch, case.density), random_targets(taxonomy, batch, 0.2)
    hard = (hard[0], hard[1], torch.ones_like(hard[2]))
    index = SlotIndex(taxonomy, torch.device("cpu"))
    soft_slots, hard_slots = SlotTargets(index, batch, *soft), SlotTargets(index, batch, *hard)
    objective = TopKBce(TopKBceOptions(k=3, temperature=case.temperature, hard_weight=case.hard_weight))
    features = torch.randn(batch, 6, dtype=torch.float64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        if case.way == "autograd":
            patch.setattr(TopKBce, "has_closed_form", False)
        elif case.way == "closed form, few images at a time":
            patch.setattr(closed_form, "TILE", 2 * max(sizes))
        outcome = backward_by_block(
            head,
            objective,
            features,
            lambda v: block_targets(hard_slots, soft_slots, v),
            None,
            batch_size=batch,
        )
    found = {n: p.grad.clone() for n, p in head.named_parameters() if p.grad is not None}
    found["features"] = features.grad.clone()

    head.zero_grad()
    again = features.detach().clone().requires_grad_()
    y = dense_logits(head, case.expander, case.variant, again)
    loss = dense_cross_entropy(y / case.temperature, to_slots(taxonomy, batch, *soft))
    if case.hard_weight:
        loss = loss + case.hard_weight * dense_cross_entropy(y, to_slots(taxonomy, batch, *hard))
    loss.backward()
    torch.testing.assert_close(
        sum(float(t.sum()) for t in outcome.terms.values()), float(loss.detach()), rtol=1e-6, atol=1e-6
    )
    expected = {n: p.grad for n, p in head.named_parameters() if p.grad is not None}
    expected["features"] = again.grad
    assert set(found) == set(expected)
    for n, gradient in expected.items():
        torch.testing.assert_close(found[n], gradient, rtol=1e-10, atol=1e-11, msg=lambda m, n=n: f"{n}: {m}")


@pytest.mark.parametrize("expander", EXPANDERS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", WAYS)
def test_loss_and_every_gradient_are_those_of_the_equations(expander, variant, way):
    compare(Case(expander=expander, variant=variant, way=way))


@given(
    st.builds(
        Case,
        sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple),
        expander=st.sampled_from(sorted(EXPANDERS)),
        variant=st.sampled_from(sorted(VARIANTS)),
        temperature=st.sampled_from([0.5, 1.0, 3.0]),
        hard_weight=st.sampled_from([0.0, 0.7]),
        batch=st.integers(1, 5),
        density=st.sampled_from([0.0, 0.3, 1.0]),
        overlap=st.booleans(),
        seed=st.integers(0, 1000),
        way=st.sampled_from(WAYS),
    )
)
@settings(max_examples=60, deadline=None)
def test_equations_hold_for_any_shape(case):
    compare(case)


def test_equation_1_is_the_hard_objective():
    torch.manual_seed(0)
    y = torch.randn(3, 4, dtype=torch.float64)
    z = (torch.rand(3, 4) < 0.4).double()
    taxonomy = taxonomy_of((4,), False)
    rows, classes = z.nonzero().T
    hard = SlotTargets(SlotIndex(taxonomy, y.device), 3, rows, classes, torch.ones(len(rows)).double())
    found = HardBce(PluginOptions())(y, block_targets(hard, None, 0))["hard"].sum() / 3
    torch.testing.assert_close(found, dense_cross_entropy(y, z))


def test_gammas_gradient_is_the_closed_form():
    """d/d gamma of sum_ij L(y_ij) with y = gamma x / |x| is sum_ij (s(y_ij) - z_ij) x_ij / |x_i|."""
    torch.manual_seed(0)
    sizes = (5, 3)
    pacing = SelfPaced(SelfPacedOptions(), sizes, 8).double()
    for v, size in enumerate(sizes):
        x, z = torch.randn(4, size).double(), torch.rand(4, size).double()
        y = pacing(x, v)
        (-(z * y.sigmoid().log() + (1 - z) * (1 - y.sigmoid()).log())).sum().backward()
        unit = x / x.norm(dim=1, keepdim=True)
        gamma = pacing.gamma[v]
        torch.testing.assert_close(gamma.grad.sum(), (((gamma * unit).sigmoid() - z) * unit).sum())


def test_gamma_starts_as_the_variant_says():
    sizes = (400, 900)
    for choice, expected in [
        (SelfPacedOptions(variance=0), [20, 30]),
        (SelfPacedOptions(init=10, variance=0), [10, 10]),
        (SelfPacedOptions(start="base-rate", variance=0), [20 * math.log(1300), 30 * math.log(1300)]),
    ]:
        assert SelfPaced(choice, sizes, 1300).readings()["gamma"].tolist() == pytest.approx(expected)
    torch.manual_seed(0)
    drawn = SelfPaced(SelfPacedOptions(level="class"), (10_000,), 10_000).gamma[0]
    assert float(drawn.detach().var()) == pytest.approx(1e-3, rel=0.1)
    assert not SelfPaced(SelfPacedOptions(trainable=False), sizes, 1300).gamma[0].requires_grad


def test_base_rate_start_gives_every_class_probability_one_in_n():
    torch.manual_seed(0)
    sizes = (300, 700)
    pacing = SelfPaced(SelfPacedOptions(start="base-rate", variance=0), sizes, 1000)
    head = Head(FcSc(FcOptions(s1=16, s2=16), 8, sizes), pacing, sizes)
    shared = head.shared(torch.randn(32, 8))
    for v in range(2):
        assert head.block(v, shared).sigmoid().median().item() == pytest.approx(1e-3, rel=0.5)


def test_paper_start_cannot_say_none_of_these():
    """|y| = sqrt(N_v) leaves at least one class of every image at 0.2689 or more, whatever the logits."""
    pacing = SelfPaced(SelfPacedOptions(variance=0), (50,), 50)
    for x in (torch.randn(100, 50), -torch.ones(1, 50), -torch.rand(100, 50)):
        assert pacing(x, 0).sigmoid().max(1).values.min() >= 0.2689


def test_the_floor_is_the_least_loss_any_logits_can_have():
    torch.manual_seed(0)
    pacing = SelfPaced(SelfPacedOptions(variance=0), (20,), 20)
    floor = float(pacing.readings()["floor"])
    at_the_floor = nn.functional.softplus(pacing(-torch.ones(1, 20), 0)).sum()
    assert float(at_the_floor.detach()) == pytest.approx(floor, rel=1e-6)
    x = torch.randn(500, 20, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=0.5)
    for _ in range(300):  # neither random nor descended logits get below it
        losses = nn.functional.softplus(pacing(x, 0)).sum(1)
        assert float(losses.detach().min()) >= floor * (1 - 1e-5)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    assert float(losses.detach().min()) == pytest.approx(floor, rel=0.01)


def test_all_zero_logits_stay_finite():
    pacing = SelfPaced(SelfPacedOptions(), (3,), 3)
    x = torch.zeros(2, 3, requires_grad=True)
    y = pacing(x, 0)
    y.sum().backward()
    assert y.eq(0).all()
    assert x.grad.isfinite().all()


def test_weights_scale_each_verticals_gradient_alone():
    torch.manual_seed(0)
    sizes, batch = (3, 4), 5
    taxonomy = taxonomy_of(sizes, False)
    head = build_head("fc-sc", "none", sizes, 6)
    hard = SlotTargets(SlotIndex(taxonomy, torch.device("cpu")), batch, *random_targets(taxonomy, batch, 0.3))
    features = torch.randn(batch, 6).double()
    grads = []
    for weights in (None, torch.tensor([2.0, 0.0])):
        head.zero_grad()
        backward_by_block(
            head,
            HardBce(PluginOptions()),
            features,
            lambda v: block_targets(hard, None, v),
            weights,
            batch_size=batch,
        )
        grads.append([c.weight.grad.clone() for c in head.classifiers])
    torch.testing.assert_close(grads[1][0], 2 * grads[0][0])
    assert grads[1][1].eq(0).all()


def test_parameters_are_those_of_the_papers_formulas():
    sizes, d, m, n = (5, 9, 2), 11, 3, 16
    for name, expected in {
        "fc-fc": d * 7 + 7 * 5 + 5 * n,
        "fc-sc": d * 7 + m * 7 * 5 + 5 * n,
        "sc-sc": m * d * 4 + m * 4 * 5 + 5 * n,
        "fc-sc-shared": d * 7 + 7 * 2 + m * 7 * (5 - 2) + 5 * n,
    }.items():
        kind, options = EXPANDERS[name]
        head = Head(kind(options, d, sizes), NoPacing(PluginOptions(), sizes, n), sizes, bias=False)
        assert sum(p.numel() for p in head.parameters()) == expected


def test_shared_units_of_all_or_none_are_the_papers_special_cases():
    sizes, batch = (3, 4), 2
    features = torch.randn(batch, 6)
    for x, alike in ((5, FcFc), (0, FcSc)):
        expander = FcScShared(FcScSharedOptions(s1=7, s2=5, x=x), 6, sizes)
        shared = expander.shared(features)
        hidden = [expander.block(v, shared) for v in range(2)]
        assert hidden[0].shape == (batch, 5)
        assert torch.equal(hidden[0], hidden[1]) == (alike is FcFc)


def test_bare_module_is_plain_torch():
    """The head is an nn.Module like any other: moved, saved and loaded without the engine."""
    head = build_head("fc-sc", "4", (3, 2), 6)
    copy = build_head("fc-sc", "4", (3, 2), 6)
    copy.load_state_dict(head.state_dict())
    features = torch.randn(2, 6).double()
    assert isinstance(head, nn.Module)
    for v in range(2):
        assert torch.equal(head.block(v, head.shared(features)), copy.block(v, copy.shared(features)))
