"""mpvap and its kin against scikit-learn and by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from kcframe.engine.data.split import Split
from kcframe.engine.evaluation import average_precision as average_precision_module
from kcframe.engine.evaluation import evaluate as evaluation
from kcframe.engine.evaluation.average_precision import average_precision
from kcframe.engine.evaluation.evaluate import Settings, _variety, evaluate
from kcframe.interfaces.data import ImageSet, Labels
from kcframe.report.results import apart
from kcframe.taxonomy import Taxonomy


@given(st.integers(1, 30), st.integers(1, 6), st.sampled_from([2, 5, 1000]), st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_average_precision_is_scikit_learns(num_images, num_classes, levels, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels, (num_images, num_classes)).astype(np.float32)  # with ties
    truth = random.random((num_images, num_classes)) < 0.3
    rows, columns = (torch.from_numpy(a) for a in truth.nonzero())
    found = average_precision(torch.from_numpy(scores), rows, columns)
    for few in (0, 1000):  # whether a class has few images or many
        with patch.object(average_precision_module, "FEW", few):
            again = average_precision(torch.from_numpy(scores), rows, columns)
        torch.testing.assert_close(again, found, equal_nan=True, rtol=0, atol=0)
    for c in range(num_classes):
        if truth[:, c].any():
            assert float(found[c]) == pytest.approx(
                average_precision_score(truth[:, c], scores[:, c]), abs=1e-12
            )
        else:
            assert math.isnan(found[c])


class Scores:
    """A student that says given logits: image i is the constant picture i."""

    training = False

    def __init__(self, logits: torch.Tensor, sizes: tuple[int, ...]):
        self.logits, self.sizes, self.head = logits, sizes, self
        self.cuts = np.cumsum([0, *sizes])

    def eval(self): ...

    def train(self, mode): ...

    def features(self, images):
        return images.flatten(1)[:, :1]

    def shared(self, features):
        return features

    def block(self, v, shared):
        return self.logits[shared[:, 0].long(), self.cuts[v] : self.cuts[v + 1]]


class Numbers(ImageSet):
    def __init__(self, labels):
        self.labels = Labels.from_lists(labels)

    def load(self, indices, keys):
        return indices.float().view(-1, 1, 1, 1)


def measure(taxonomy: Taxonomy, logits: torch.Tensor, labels: list[list[int]]):
    images = Numbers(labels)
    student = Scores(logits, taxonomy.sizes)
    return evaluate(student, Split.whole(images), taxonomy, Settings(2, torch.device("cpu")))


@pytest.mark.parametrize("numbers", [10**6, 80, 1])
def test_mpvap_is_the_mean_of_scikit_learns_over_classes_then_verticals(numbers, monkeypatch):
    """However many logits there are at a time."""
    for module in (evaluation, average_precision_module):
        monkeypatch.setattr(module, "MAX_SCORES", numbers)
    monkeypatch.setattr(evaluation, "MAX_LOGITS", numbers)
    torch.manual_seed(0)
    taxonomy = Taxonomy.build({"a": ["0", "1", "2"], "b": ["3", "4"], "c": ["5", "6", "7"]})
    labels = [[int(c)] if c != 2 else [0, 4] for c in torch.randint(0, 5, (40,))]  # c: no image
    logits = torch.randn(40, 8)
    found = measure(taxonomy, logits, labels)
    truth = np.zeros((40, 8), dtype=bool)
    for i, row in enumerate(labels):
        truth[i, row] = True
    aps = [
        average_precision_score(truth[:, c], logits[:, c]) if truth[:, c].any() else None for c in range(8)
    ]
    assert found.top_classes.tolist() == logits.topk(5).indices.tolist()
    a = np.mean([x for x in aps[:3] if x is not None])
    b = np.mean([x for x in aps[3:5] if x is not None])
    assert found.mean("ap") == pytest.approx(100 * (a + b) / 2)
    assert found.per_vertical["c"]["ap"] is None
    own = truth[:, 3:5].any(1)
    routed = np.mean(
        [average_precision_score(truth[own, c], logits[own, c]) for c in (3, 4) if truth[own, c].any()]
    )
    assert found.per_vertical["b"]["routed_ap"] == pytest.approx(100 * routed)


def test_images_that_are_told_apart_are_measured_as_if_alone():
    taxonomy = Taxonomy.build({"a": ["x", "y"], "b": ["z"], "c": ["w"]})
    torch.manual_seed(1)
    logits, labels = torch.randn(7, 4), [[0], [1], [0], [2], [1], [0], [2]]
    seen = torch.tensor([1, 0, 1, 1, 0, 1, 0]).bool()

    class Told(Numbers):
        told_apart = {"known": seen, "new": ~seen}

    student, settings = Scores(logits, taxonomy.sizes), Settings(2, torch.device("cpu"))
    indices = torch.tensor([6, 5, 3, 2, 1, 0])  # not all, and not in order
    images = Told(labels)
    found = evaluate(student, Split.whole(images).only(indices), taxonomy, settings)
    for name, which in Told.told_apart.items():
        some = indices[which[indices]]
        alone = evaluate(student, Split.whole(Numbers(labels)).only(some), taxonomy, settings)
        for vertical, row in alone.per_vertical.items():
            assert found.per_vertical[vertical]["apart"][name] == {k: row[k] for k in ("ap", "routed_ap")}
        assert apart(found.per_vertical)["apart"][name] == pytest.approx(alone.mean("ap"))
    plain = evaluate(student, Split.whole(Numbers(labels)).only(indices), taxonomy, settings)
    assert apart(plain.per_vertical) == {}
    assert plain.mean("ap") == found.mean("ap")


def test_labels_that_are_more_likely_wrong_do_not_count():
    taxonomy = Taxonomy.build({"a": ["x", "y"], "b": ["z"]})
    torch.manual_seed(1)
    logits, images = torch.randn(6, 3), Numbers([[0, 2], [1], [0, 1], [2], [1, 2], [0]])
    sure = torch.tensor([1, 0.4, 0.5, 0.9, 0.1, 1, 0.7, 0.2, 1])
    weighed = replace(images.labels, values=sure)
    student, settings = Scores(logits, taxonomy.sizes), Settings(2, torch.device("cpu"))
    found = evaluate(student, replace(Split.whole(images), labels=weighed), taxonomy, settings)
    expected = measure(taxonomy, logits, [[0], [1], [0], [2], [1], [0]])
    assert found.per_vertical == expected.per_vertical


def test_top1_counts_leaves_only_and_confusion_says_where_the_rest_went():
    taxonomy = Taxonomy.build({"a": ["letter", "x", "y"], "b": ["p"]}, {"x": ["letter"], "y": ["letter"]})
    labels = [[0, 1], [0, 2], [3]]
    logits = torch.tensor([[9.0, 1, 0, 0], [9.0, 0, 1, 2], [9.0, 0, 0, 1]])
    found = measure(taxonomy, logits, labels)
    assert found.per_vertical["a"]["top1"] == 50
    assert found.per_vertical["a"]["routed_top1"] == 100
    assert found.per_vertical["a"]["top5"] == 100
    assert found.per_vertical["b"]["top1"] == 100
    assert found.confusion == [[1, 1], [0, 1]]


def test_a_class_in_two_verticals_is_counted_once_and_is_no_confusion():
    taxonomy = Taxonomy.build({"a": ["x", "y"], "b": ["x", "z"]})
    found = measure(taxonomy, torch.tensor([[1.0, 0, 5, 4], [1.0, 2, 0, 0]]), [[0], [1]])
    assert found.top_classes[0].tolist()[:3] == [0, 2, 1]
    assert found.confusion == [[2, 0], [0, 1]]


def test_effective_rank_and_constant_units_are_those_of_the_covariance():
    torch.manual_seed(0)
    features = torch.randn(50, 6) @ torch.randn(6, 6)
    features[:, 4] = 3.0
    rank, constant = _variety(features)
    values = torch.from_numpy(np.linalg.eigvalsh(np.cov(features.numpy().astype(np.float64).T)))
    assert rank == pytest.approx(float(values.sum() ** 2 / (values**2).sum()))
    assert constant == pytest.approx(100 / 6)
    assert _variety(torch.ones(3, 2)) == (0.0, 100.0)


MEMORY = """
import resource, sys, torch
from kcframe.engine.data.split import Split
from kcframe.engine.evaluation import average_precision, evaluate
from kcframe.interfaces.data import ImageSet, Labels
from kcframe.taxonomy import Taxonomy

n, classes = 10_000, 5_000
evaluate.MAX_LOGITS = int(sys.argv[1])
average_precision.MAX_SCORES = evaluate.MAX_SCORES = 2**20
weights = torch.randn(8, classes)

class Images(ImageSet):
    labels = Labels(torch.arange(n + 1), torch.arange(n, dtype=torch.int32) % classes)
    def load(self, indices, keys):
        return torch.randn(len(indices), 8)

class Net:
    training = False
    def eval(self): ...
    def train(self, mode): ...
    def features(self, images): return images
    def shared(self, features): return features
    def block(self, v, shared): return shared @ weights

Net.head = property(lambda self: self)
images = Images()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = evaluate.evaluate(
    Net(), Split.whole(images), Taxonomy.build({"v": [str(c) for c in range(classes)]}),
    evaluate.Settings(500, torch.device("cpu")),
)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_does_not_grow_with_images_times_classes():
    """200 MB of logits, of which so many are there at a time as may be."""
    peaks = {}
    for numbers in (2**22, 2**28):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(numbers)], capture_output=True, text=True, check=True
        )
        peaks[numbers] = float(done.stdout)
    assert peaks[2**22] < 100
    assert peaks[2**28] < 350  # and of those one copy


def test_one_class_one_image():
    taxonomy = Taxonomy.build({"a": ["x"]})
    found = measure(taxonomy, torch.tensor([[-3.0]]), [[0]])
    assert found.mean("ap") == found.mean("top1") == found.mean("top5") == 100
