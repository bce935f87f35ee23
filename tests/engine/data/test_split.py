"""Which images a stage learns from, and which it is measured on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kcframe.engine.data.split import learned_and_measured
from kcframe.interfaces.data import ImageSet, Labels
from kcframe.recipe.schema import Evaluation

SURE, UNLIKELY, ABSENT, NOTHING = range(4)
KINDS = torch.tensor([SURE, UNLIKELY, ABSENT, NOTHING] * 25)


def labels_where(kept, values=None):
    """Class 0 for the images that are kept."""
    counts = torch.cat([torch.zeros(1, dtype=torch.long), kept.long().cumsum(0)])
    classes = torch.zeros(int(kept.sum()), dtype=torch.int32)
    return Labels(counts, classes, None if values is None else values[kept])


class Images(ImageSet):
    def __init__(self):
        has_label = (KINDS == SURE) | (KINDS == UNLIKELY)
        self.labels = labels_where(has_label, torch.where(KINDS == SURE, 0.9, 0.3))
        self.absent = labels_where(KINDS == ABSENT)

    def load(self, indices, keys): ...


@pytest.fixture
def source():
    images = Images()
    return SimpleNamespace(split=lambda name: images, max_bad_fraction=0.0)


def kinds(part):
    return set(KINDS[part.indices].tolist())


def test_learned_is_what_somebody_believes_and_measured_is_what_somebody_knows(source):
    """No teacher is asked about an unlikely label: eq. 2 would take its image for an empty one."""
    for split in ("test", "validation"):
        evaluation = Evaluation(split=split, share=0.3)
        learned, measured = learned_and_measured(source, evaluation, 0, torch.arange(1))
        assert kinds(learned) == {SURE}
        assert kinds(measured) == {SURE, ABSENT}
        if split == "validation":
            assert not set(learned.indices.tolist()) & set(measured.indices.tolist())
    # What is measured is the same share of each.
    assert (KINDS[measured.indices] == ABSENT).float().mean() == pytest.approx(0.5, abs=0.2)
