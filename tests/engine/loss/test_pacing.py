"""What pacing may say about a step: weights of verticals, of terms and of images, temperatures, and the
accuracies it may ask for. Each against a dense or a plain Python reference."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from kcframe.builtin.objectives.bce import HardBce, TopKBce
from kcframe.builtin.objectives.options import TopKBceOptions
from kcframe.engine.loss.blocks import backward_by_block
from kcframe.engine.loss.targets import SlotIndex, SlotTargets, block_targets
from kcframe.engine.model import Direct, Head
from kcframe.engine.progress import Smoothed, tally
from kcframe.engine.world import World
from kcframe.errors import PluginError
from kcframe.interfaces.objective import BlockTargets, Objective, SparseTargets
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing
from kcframe.taxonomy import Taxonomy

SIZES, BATCH, FEATURES = (4, 1, 6), 7, 5


class ByImage(Pacing):
    """Gives every image of a vertical its own weight."""

    def image_weights(self, logits, targets):
        assert not logits.requires_grad
        return torch.linspace(0, 2, len(logits), dtype=logits.dtype) + targets.vertical


class Summed(Objective):
    def forward(self, logits, targets):
        return {"all": logits.square().sum()}


def setting(pacing=Pacing):
    torch.manual_seed(0)
    taxonomy = Taxonomy.build({f"v{v}": [f"v{v}c{c}" for c in range(n)] for v, n in enumerate(SIZES)})
    head = Head(Direct(FEATURES, SIZES), pacing(PluginOptions(), SIZES, sum(SIZES)), SIZES).double()
    torch.nn.init.normal_(head.classifiers[0].bias)
    soft = torch.rand(BATCH, sum(SIZES)).double() * (torch.rand(BATCH, sum(SIZES)) < 0.6)
    hard = (torch.rand(BATCH, sum(SIZES)) < 0.3).double()
    index = SlotIndex(taxonomy, torch.device("cpu"))

    def sparse(dense):
        rows, classes = dense.nonzero().T
        return SlotTargets(index, BATCH, rows, classes, dense[rows, classes])

    features = torch.randn(BATCH, FEATURES).double().requires_grad_()
    return head, features, (soft, sparse(soft)), (hard, sparse(hard))


def gradients(head):
    return [c.weight.grad.clone() for c in head.classifiers]


def dense_loss(head, features, targets, scale=1.0):
    """float64 [B, N]: each entry's cross-entropy."""
    y = torch.cat([c(features) for c in head.classifiers], 1) / scale
    return F.binary_cross_entropy_with_logits(y, targets, reduction="none")


def per_class(values):
    return torch.repeat_interleave(torch.as_tensor(values).double(), torch.tensor(SIZES))


def test_each_term_has_weights_of_its_own():
    head, features, (soft, soft_slots), (hard, hard_slots) = setting()
    weights = {"soft": torch.tensor([0.5, 2.0, 0.0])}
    objective = TopKBce(TopKBceOptions(k=99, hard_weight=3.0))
    found = backward_by_block(
        head,
        objective,
        features,
        lambda v: block_targets(hard_slots, soft_slots, v),
        weights,
        batch_size=BATCH,
    )
    by_block, terms = gradients(head), found.terms
    head.zero_grad()
    again = features.detach()
    soft_loss, hard_loss = dense_loss(head, again, soft), 3 * dense_loss(head, again, hard)
    (((soft_loss * per_class(weights["soft"])).sum() + hard_loss.sum()) / BATCH).backward()
    for a, b in zip(by_block, gradients(head), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    # What is told is the loss before any weight.
    expected = torch.stack([part.sum() for part in soft_loss.split(SIZES, 1)]).detach() / BATCH
    torch.testing.assert_close(terms["soft"].double(), expected, rtol=1e-6, atol=1e-6)


def test_images_are_weighed_in_each_vertical():
    head, features, _, (hard, hard_slots) = setting(ByImage)
    objective = HardBce(PluginOptions())
    found = backward_by_block(
        head, objective, features, lambda v: block_targets(hard_slots, None, v), None, batch_size=BATCH
    )
    by_block = gradients(head)
    head.zero_grad()
    loss = dense_loss(head, features.detach(), hard)
    shares = torch.linspace(0, 2, BATCH, dtype=torch.float64)[:, None] + per_class([0, 1, 2])
    ((loss * shares).sum() / BATCH).backward()
    for a, b in zip(by_block, gradients(head), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert float(found.terms["hard"].sum()) == pytest.approx(float(loss.detach().sum()) / BATCH)


def test_an_objective_that_sums_over_images_cannot_have_them_weighed():
    head, features, _, (_, hard_slots) = setting(ByImage)
    with pytest.raises(PluginError, match="ByImage weighs images, but Summed sums its terms over them"):
        backward_by_block(
            head,
            Summed(PluginOptions()),
            features,
            lambda v: block_targets(hard_slots, None, v),
            None,
            batch_size=BATCH,
        )


def test_temperatures_scale_both_sides():
    head, features, (soft, soft_slots), (_, hard_slots) = setting()
    temperatures = torch.tensor([0.5, 1.0, 4.0]).double()
    objective = TopKBce(TopKBceOptions(k=99, temperature=2.0))

    def targets(vertical):
        return block_targets(hard_slots, soft_slots, vertical, temperatures)

    backward_by_block(head, objective, features, targets, None, batch_size=BATCH)
    by_block = gradients(head)
    head.zero_grad()
    (dense_loss(head, features.detach(), soft, 2 * per_class(temperatures)).sum() / BATCH).backward()
    for a, b in zip(by_block, gradients(head), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    logits = torch.randn(3, 4).double()
    scale = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    torch.testing.assert_close(objective.soften(logits, scale), torch.sigmoid(logits / (2 * scale)))


def test_a_class_of_two_verticals_has_the_larger_temperature():
    taxonomy = Taxonomy.build({"a": ["x", "y"], "b": ["y", "z"]})
    values = SlotIndex(taxonomy, torch.device("cpu")).by_class(torch.tensor([1.0, 3.0]))
    named = dict(zip(taxonomy.classes, values.tolist(), strict=True))
    assert named == {"x": 1.0, "y": 3.0, "z": 3.0}


def naive_tally(logits, hard, soft):
    images = [i for i in range(len(logits)) if hard[i].any()]
    student = [i for i in images if hard[i, logits[i].argmax()]]
    asked = [i for i in images if soft[i].any()]
    teacher = [i for i in asked if hard[i, soft[i].argmax()]]
    return [len(images), len(student), len(teacher), len(asked)]


@pytest.mark.parametrize("seed", range(20))
def test_a_tally_is_what_counting_gives(seed):
    torch.manual_seed(seed)
    width = seed % 5 + 1
    logits = torch.randn(9, width)
    hard = (torch.rand(9, width) < 0.4).float()
    soft = torch.rand(9, width) * (torch.rand(9, width) < 0.5)

    def sparse(dense):
        rows, columns = dense.nonzero().T
        return SparseTargets(rows, columns, dense[rows, columns], tuple(dense.shape))

    found = tally(logits, BlockTargets(0, sparse(hard), sparse(soft)))
    assert found.tolist() == naive_tally(logits, hard, soft)
    assert tally(logits, BlockTargets(0, sparse(hard), None)).tolist()[2:] == [0, 0]


def test_accuracies_are_smoothed_and_survive_a_checkpoint():
    smoothed = Smoothed(2)
    assert smoothed.accuracy.isnan().all()
    steps = [([4, 1, 4, 4], [0, 0, 0, 0]), ([2, 2, 1, 2], [1, 0, 0, 0])]
    for counts in steps:
        smoothed.add(torch.ones(2), torch.tensor(counts).float(), World())
    assert float(smoothed.accuracy[0]) == pytest.approx((0.98 * 1 + 2) / (0.98 * 4 + 2))
    assert float(smoothed.teacher_accuracy[0]) == pytest.approx((0.98 * 4 + 1) / (0.98 * 4 + 2))
    assert float(smoothed.accuracy[1]) == 0
    assert math.isnan(smoothed.teacher_accuracy[1])
    other = Smoothed(2)
    other.restore(smoothed.state())
    torch.testing.assert_close(other.accuracy, smoothed.accuracy)
