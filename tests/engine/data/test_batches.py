"""Loading ahead in other processes changes nothing but the time it takes."""

from __future__ import annotations

import pytest
import torch

from kcframe.engine.data.batches import BatchPlan, load_batches
from kcframe.engine.data.sampler import Sampler
from kcframe.engine.data.split import Split
from kcframe.errors import DataError
from kcframe.interfaces.data import ImageSet, Labels


class Numbers(ImageSet):
    """Picture i shows its index and its key."""

    def __init__(self, bad: int = -1):
        self.labels = Labels.from_lists([[i % 3] for i in range(20)])
        self.bad = bad

    def load(self, indices, keys):
        if self.bad in indices.tolist():
            raise DataError(f"image {self.bad}: cannot be decoded")
        return torch.stack([indices, keys % 1000], 1).float().view(-1, 2, 1, 1)


def plan(bad=-1, rank=0, size=1):
    images = Numbers(bad)
    return BatchPlan(Split.whole(images), Sampler(torch.arange(20), 6, seed=3), 5, rank, size)


@pytest.mark.parametrize(
    ("rank", "size"),
    [pytest.param(0, 1, id="one worker"), pytest.param(1, 2, id="the second of two workers")],
)
def test_processes_load_the_same_batches(rank, size):
    here, ahead = (list(load_batches(plan(rank=rank, size=size), range(2, 9), n)) for n in (0, 2))
    assert len(here) == len(ahead) == 7
    for one, other in zip(here, ahead, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels.classes, other.labels.classes)
        assert one.whole == other.whole
        assert one.labels.classes.tolist() == [int(i) % 3 for i in one.images[:, 0].flatten()]


def test_an_error_arrives_in_its_own_words():
    for processes in (0, 2):
        with pytest.raises(DataError) as caught:
            list(load_batches(plan(bad=7), range(4), processes))
        assert str(caught.value) == "image 7: cannot be decoded"


def test_nothing_left_to_load():
    assert list(load_batches(plan(), range(9, 9), 2)) == []
