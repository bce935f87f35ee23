"""Labels that nobody verified: no hard target, no figure and no gradient counts them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from kcframe.assembly.plugins import construct
from kcframe.builtin.objectives.bce import HardBce, TopKBce
from kcframe.builtin.objectives.options import TopKBceOptions
from kcframe.engine.evaluation.average_precision import average_precision, without_unknown
from kcframe.engine.loss import closed_form
from kcframe.engine.loss.blocks import backward_by_block
from kcframe.engine.loss.targets import SlotIndex, SlotTargets, block_targets
from kcframe.engine.model import Head
from kcframe.errors import PluginError
from kcframe.interfaces.data import ImageSet, Labels
from kcframe.interfaces.objective import BlockTargets, SparseTargets
from kcframe.interfaces.options import PluginOptions
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import PluginRef
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy
from tests.conftest import Quiet


def sparse(mask, values=None):
    """values: [B, N_v], how sure each label is."""
    rows, columns = mask.nonzero(as_tuple=True)
    listed = torch.ones(len(rows), dtype=torch.float64) if values is None else values[mask]
    return SparseTargets(rows, columns, listed, tuple(mask.shape))


def drawn(seed, rows, columns):
    """Logits [B, N_v], what is labelled, and what is absent; the rest is unknown."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, 3, (rows, columns), generator=generator)
    logits = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 4
    return logits, kinds == 1, kinds == 2


def dense_loss(logits, present, absent, sure=1.0):
    each = F.binary_cross_entropy_with_logits(logits, present.double() * sure, reduction="none")
    return (each * (present | absent)).sum(1)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 7), st.booleans())
def test_the_loss_is_over_what_is_known(seed, rows, columns, everything):
    """And labels count as much as they are sure. everything: nothing is unknown."""
    logits, present, absent = drawn(seed, rows, columns)
    sure = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if everything:
        absent = ~present
    named = None if everything else sparse(absent)
    targets = BlockTargets(0, sparse(present, sure), sparse(absent), 1.0, named)
    objective = HardBce(PluginOptions())
    leaf = logits.clone().requires_grad_()
    terms = objective.forward(leaf, targets)
    assert torch.allclose(terms["hard"], dense_loss(logits, present, absent, sure), rtol=1e-10, atol=1e-12)
    terms["hard"].sum().backward()
    expected = (logits.sigmoid() - present.double() * sure) * (present | absent)
    assert torch.allclose(leaf.grad, expected, rtol=1e-10, atol=1e-12)
    out = torch.full_like(logits, 7.0)
    again = objective.gradient(logits, targets, lambda name: 0.5, out)
    assert torch.allclose(out, 0.5 * expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(again["hard"], terms["hard"].detach(), rtol=1e-10, atol=1e-12)


def test_what_teachers_say_of_unknown_classes_counts():
    logits, present, absent = drawn(3, 4, 6)
    soft = sparse(torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.5)
    objective = TopKBce(TopKBceOptions(hard_weight=0.25))
    without = objective.forward(logits, BlockTargets(0, sparse(present), soft))
    terms = objective.forward(logits, BlockTargets(0, sparse(present), soft, 1.0, sparse(absent)))
    assert torch.equal(terms["soft"], without["soft"])
    assert torch.allclose(terms["hard"], 0.25 * dense_loss(logits, present, absent), rtol=1e-10)


@pytest.mark.parametrize("tile", [2**18, 5])
def test_block_by_block_as_by_autograd(tile, monkeypatch):
    """In tiles of an image or two, with a class in two verticals, in float64."""
    monkeypatch.setattr(closed_form, "TILE", tile)
    taxonomy = Taxonomy.build({"a": ["x", "y", "z"], "b": ["z", "w"]})
    labels = Labels.from_lists([[0], [1, 2], [], [3]])
    absent = Labels.from_lists([[1, 3], [0], [2], []])
    found = []
    for closed in (True, False):
        torch.manual_seed(5)
        expander = construct(
            "expander", PluginRef(name="fc-sc", options={"s1": 6, "s2": 4}), 5, taxonomy.sizes
        )
        pacing = construct(
            "pacing",
            PluginRef(name="self-paced", options={"start": "base-rate"}),
            taxonomy.sizes,
            taxonomy.num_classes,
        )
        head = Head(expander, pacing, taxonomy.sizes).double()
        objective = HardBce(PluginOptions())
        objective.has_closed_form = closed
        index = SlotIndex(taxonomy, torch.device("cpu"))

        def slots(each, index=index):
            return SlotTargets(
                index, 4, each.rows(), each.classes, torch.ones(len(each.classes), dtype=torch.float64)
            )

        hard, gone = slots(labels), slots(absent)
        features = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
        outcome = backward_by_block(
            head,
            objective,
            features,
            lambda v, hard=hard, gone=gone: block_targets(hard, None, v, None, gone),
            None,
            batch_size=4,
        )
        grads = [p.grad for p in head.parameters()] + [features.grad, outcome.terms["hard"]]
        found.append(grads)
    for ours, reference in zip(*found, strict=True):
        assert torch.allclose(ours.double(), reference.double(), rtol=1e-6, atol=1e-9)


def test_average_precision_is_over_the_images_that_are_known():
    scores, present, absent = drawn(8, 40, 5)
    ranked = without_unknown(scores, present.nonzero(as_tuple=True), absent.nonzero(as_tuple=True))
    found = average_precision(ranked, *present.nonzero(as_tuple=True))
    for column in range(5):
        known = (present | absent)[:, column].numpy()
        truth = present[:, column].numpy()[known]
        expected = average_precision_score(truth, scores[:, column].numpy()[known])
        assert found[column] == pytest.approx(expected)
    assert np.isfinite(found.numpy()).all()


@pytest.fixture
def half_known(monkeypatch):
    """The synthetic data, of which only class 0 and 1 were ever verified absent."""
    from kcframe.builtin.sources import synthetic

    def absent(images: ImageSet) -> Labels:
        rows = [set(images.labels.of(i)) for i in range(len(images))]
        return Labels.from_lists([[c for c in (0, 1) if c not in row] for row in rows])

    whole = synthetic.Synthetic.split

    def split(self, name):
        images = whole(self, name)
        images.absent = absent(images)
        return images

    monkeypatch.setattr(synthetic.Synthetic, "split", split)


def test_a_run_with_unknown_labels(tiny, tmp_path, half_known):
    """A class that is never verified absent has nothing to be wrong about: its average precision is 100."""
    from kcframe.assembly.source import _source

    _source.cache_clear()
    recipe, quiet = load_recipe(str(tiny()), installed()), Quiet()
    results = run(recipe, RunDir(tmp_path / "r"), quiet)
    # Classes 5 to 8 are those of the second and third vertical.
    verticals = list(results["arms"]["student"]["per_vertical"].values())
    assert verticals[2]["ap"] == pytest.approx(100)
    assert verticals[0]["ap"] < 100


def test_an_objective_that_would_take_them_for_negatives_is_refused(tiny, tmp_path, half_known, monkeypatch):
    monkeypatch.setattr(TopKBce, "handles_unknown", False)
    recipe, quiet = load_recipe(str(tiny()), installed()), Quiet()
    with pytest.raises(PluginError, match="arms.student: .*'top-k-bce'.*does not tell unknown labels from"):
        run(recipe, RunDir(tmp_path / "r"), quiet)
    assert not quiet.begun
