"""Objective `softened` against float64 softmaxes written out here, image by image and class by class."""

import math

import pytest
import torch
from kcframe_objective_softened.options import SoftenedOptions
from kcframe_objective_softened.softened import Softened

from kcframe.interfaces.toolkit.log_odds import from_softmax
from kcframe.testing import (
    head_gradients,
    make_block_targets,
    make_head,
    make_targets,
    modules_loaded_for_options,
)


def softmax(x):
    total = sum(math.exp(v) for v in x)
    return [math.exp(v) / total for v in x]


def naive_soft(y, p, listed, temperature, over_all):
    """T^2 sum_j p_j log(p_j / m) - p_j log q_j of each image, one number at a time."""
    losses = []
    for row in range(len(y)):
        within = [j for j in range(y.shape[1]) if over_all or listed[row, j]]
        q = dict(zip(within, softmax([float(y[row, j]) / temperature for j in within]), strict=True))
        targets = {j: float(p[row, j]) for j in range(y.shape[1]) if listed[row, j]}
        mass = sum(targets.values())
        loss = sum(t * math.log(t / mass) - t * math.log(q[j]) for j, t in targets.items() if t)
        losses.append(temperature**2 * loss)
    return losses


def naive_hard(y, z, labels):
    losses = []
    for scores, marks in zip(y.tolist(), z.tolist(), strict=True):
        if labels == "sigmoid":
            s = [1 / (1 + math.exp(-v)) for v in scores]
            losses.append(-sum(math.log(p if mark else 1 - p) for p, mark in zip(s, marks, strict=True)))
        else:
            *shares, none = softmax([*scores, 0.0])
            num = sum(marks)
            targets = [mark / num if num else 0.0 for mark in marks]
            given = sum(t * math.log(p) for t, p in zip(targets, shares, strict=True))
            losses.append(-(given if num else math.log(none)))
    return losses


def setting(seed=0, rows=6, width=5):
    """Logits, labels, soft targets and where they are listed; the third image has none of both."""
    torch.manual_seed(seed)
    y = 2 * torch.randn(rows, width, dtype=torch.float64)
    hard = (torch.rand(rows, width) < 0.4).double()
    listed = torch.rand(rows, width) < 0.6
    p = torch.rand(rows, width, dtype=torch.float64) * listed
    hard[2], listed[2] = 0, False
    return y, hard, p, listed


@pytest.mark.parametrize("labels", ["sigmoid", "softmax"])
@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_both_terms_are_their_sums_written_out(labels, k, width):
    y, hard, p, listed = setting(width=width)
    objective = Softened(SoftenedOptions(temperature=3, k=k, labels=labels, soft_weight=0.5, hard_weight=0.7))
    terms = objective(y, make_block_targets(hard, p, listed=listed, temperature_scale=0.5))
    soft = [0.5 * loss for loss in naive_soft(y, p, listed, 1.5, k is not None)]
    assert terms["soft"].tolist() == pytest.approx(soft, abs=1e-12)
    assert terms["hard"].tolist() == pytest.approx([0.7 * v for v in naive_hard(y, hard, labels)])


def test_kl_is_hintons_for_a_teacher_of_the_whole_vertical():
    """torch's kl_div of the two softened softmaxes, T^2 applied; and 0 where they are the same."""
    torch.manual_seed(0)
    z, y = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    objective = Softened(SoftenedOptions(temperature=4))
    targets = make_block_targets(torch.zeros(4, 6), objective.soften(z))
    expected = 16 * torch.nn.functional.kl_div(
        (y / 4).log_softmax(1), (z / 4).softmax(1), reduction="none"
    ).sum(1)
    torch.testing.assert_close(objective(y, targets)["soft"], expected)
    same = objective(z + torch.arange(4.0)[:, None], targets)["soft"]
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-12, rtol=0)


def test_t_squared_keeps_the_size_of_the_gradient():
    """As T grows, T^2 KL becomes half the squared distance of the centred logits: it does not vanish."""
    torch.manual_seed(0)
    z, y = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    gradients = {}
    for temperature in (1, 10, 100):
        objective = Softened(SoftenedOptions(temperature=temperature))
        at = y.clone().requires_grad_()
        targets = make_block_targets(torch.zeros(2, 5), objective.soften(z))
        objective(at, targets)["soft"].sum().backward()
        gradients[temperature] = at.grad
    limit = ((y - y.mean(1, keepdim=True)) - (z - z.mean(1, keepdim=True))) / 5
    torch.testing.assert_close(gradients[100], limit, rtol=0.05, atol=5e-3)
    assert 0.2 < float(gradients[10].norm() / gradients[1].norm()) < 5


@pytest.mark.parametrize("labels", ["sigmoid", "softmax"])
@pytest.mark.parametrize("k", [None, 3])
def test_gradients(labels, k):
    y, hard, p, listed = setting()
    objective = Softened(SoftenedOptions(k=k, labels=labels))
    targets = make_block_targets(hard, p, listed=listed, temperature_scale=0.5)
    torch.autograd.gradcheck(lambda at: tuple(objective(at, targets).values()), y.requires_grad_(), atol=1e-7)


@pytest.mark.parametrize("labels", ["sigmoid", "softmax"])
@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("hard_weight", [0.0, 0.7])
@pytest.mark.parametrize("images_at_a_time", [None, 2])
def test_the_closed_form_is_autograds(labels, k, hard_weight, images_at_a_time):
    """Through the engine: gradients of every parameter and of the features, a few images at a time or all."""
    torch.manual_seed(1)
    sizes, batch = (4, 1, 6), 7
    head = make_head(sizes, num_features=3).double()
    soft = torch.rand(batch, sum(sizes), dtype=torch.float64) * (torch.rand(batch, sum(sizes)) < 0.5)
    hard = (torch.rand(batch, sum(sizes)) < 0.2).double()
    targets = make_targets(sizes, hard, soft, temperatures=torch.tensor([0.5, 1.0, 2.0]).double())
    weights = {"soft": torch.tensor([1.0, 0.3, 0.0]), "hard": torch.tensor([0.5, 1.0, 2.0])}
    if not hard_weight:
        del weights["hard"]
    objective = Softened(SoftenedOptions(k=k, labels=labels, hard_weight=hard_weight, soft_weight=0.8))
    features = torch.randn(batch, 3, dtype=torch.float64)

    def engine():
        return head_gradients(head, objective, features, targets, weights, images_at_a_time=images_at_a_time)

    in_closed_form = engine()
    objective.has_closed_form = False
    by_autograd = engine()
    for closed, wanted in (
        (in_closed_form.gradients, by_autograd.gradients),
        (in_closed_form.terms, by_autograd.terms),
    ):
        assert closed.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(closed[name], value, rtol=1e-9, atol=1e-10)


def test_images_of_other_verticals_have_no_soft_term():
    y = torch.randn(3, 4, requires_grad=True)
    hard = torch.zeros(3, 4)
    objective = Softened(SoftenedOptions())
    for targets in (make_block_targets(hard), make_block_targets(hard, torch.zeros(3, 4))):
        soft = objective(y, targets)["soft"]
        assert soft.tolist() == [0, 0, 0]
    soft = torch.zeros(3, 4)
    soft[1] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    term = objective(y, make_block_targets(hard, soft))["soft"]
    term.sum().backward()
    assert (term != 0).tolist() == [False, True, False]
    assert y.grad[[0, 2]].abs().sum() == 0


def test_a_softmax_over_one_class_says_nothing():
    objective = Softened(SoftenedOptions())
    softened = objective.soften(torch.tensor([[3.0], [-8.0]]))
    assert softened.tolist() == [[1], [1]]
    targets = make_block_targets(torch.ones(2, 1), softened)
    assert objective(torch.randn(2, 1), targets)["soft"].tolist() == [0, 0]


@pytest.mark.parametrize("labels", ["sigmoid", "softmax"])
@pytest.mark.parametrize("k", [None, 2])
def test_large_logits_stay_finite(labels, k):
    y = torch.tensor([[1000.0, -1000, 0, 5], [-1000, -1000, -1000, -1000]], requires_grad=True)
    objective = Softened(SoftenedOptions(temperature=0.1, labels=labels, k=k))
    softened = objective.soften(torch.tensor([[-100.0, 100, 0, 1], [88, 87, 86, -90]]))
    assert (softened == 0).any()
    everything = torch.ones(2, 4, dtype=torch.bool)
    targets = make_block_targets(torch.eye(4)[:2], softened, listed=everything)
    terms = objective(y, targets)
    sum(term.sum() for term in terms.values()).backward()
    assert all(term.isfinite().all() for term in terms.values())
    assert y.grad.isfinite().all()
    # Where all that was kept has underflowed there is nothing to learn, and nothing breaks.
    nothing = make_block_targets(torch.eye(4)[:2], torch.zeros(2, 4), listed=everything)
    assert objective(y, nothing)["soft"].tolist() == [0, 0]


def test_teachers_softmaxes():
    """Of probabilities: exactly the softmax a softmax teacher was trained with, renormalised over its kept
    classes (UHC); of logits: of the log-odds as they are."""
    torch.manual_seed(0)
    own = torch.randn(5, 7)
    kept = [0, 2, 3, 6]
    odds = from_softmax(own)[:, kept]
    for temperature in (1.0, 3.0):
        objective = Softened(SoftenedOptions(temperature=temperature, teacher="probabilities"))
        torch.testing.assert_close(objective.soften(odds), (own[:, kept] / temperature).softmax(1))
        objective = Softened(SoftenedOptions(temperature=temperature))
        torch.testing.assert_close(objective.soften(odds), (odds / temperature).softmax(1))
        scale = torch.tensor([1.0, 1.0, 2.0, 2.0])
        expected = (odds / (temperature * scale)).softmax(1)
        torch.testing.assert_close(objective.soften(odds, scale), expected)
        halves = objective.soften(odds, scale)[:, 2:]
        alone = (odds[:, 2:] / (2 * temperature)).softmax(1)
        torch.testing.assert_close(halves / halves.sum(1, keepdim=True), alone)


def test_verticals_compare_by_none_of_these():
    """At the softmax hard term's least, exp(y) is a class's odds against none of these."""
    y = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    hard = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 0]]).double()
    shared = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    objective = Softened(SoftenedOptions(labels="softmax"))
    optimizer = torch.optim.LBFGS([shared], max_iter=50, tolerance_grad=1e-12)

    def loss():
        optimizer.zero_grad()
        value = objective(y.detach() + shared, make_block_targets(hard))["hard"].sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert shared.exp().tolist() == pytest.approx([2, 1], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"temperature": 0}, "greater than 0", id="a temperature of 0"),
        pytest.param({"k": 0}, "greater than or equal to 1", id="no class kept"),
        pytest.param({"labels": "none"}, "sigmoid", id="an unknown term for labels"),
        pytest.param({"soft_weight": 0}, "greater than 0", id="no weight of the soft term"),
        pytest.param({"temprature": 2}, "Extra inputs", id="a misspelt option"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        SoftenedOptions(**options)


def test_a_recipe_is_checked_without_torch():
    assert "torch" not in modules_loaded_for_options("objective", "softened")
