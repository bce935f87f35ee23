"""Every image once an epoch, in batches that are alike, whoever the workers are."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kcframe.engine.data.sampler import Sampler


@given(st.integers(1, 300), st.integers(1, 70), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_is_every_image_once_for_any_number_of_workers(num_images, batch_size, workers, epoch):
    images = torch.arange(num_images) * 7 + 3
    sampler = Sampler(images, batch_size, seed=1)
    seen, sizes = [], []
    for number in range(sampler.batches_per_epoch):
        step = epoch * sampler.batches_per_epoch + number
        alone_epoch, alone, whole = sampler.batch(step)
        parts = [sampler.batch(step, rank, workers)[1] for rank in range(workers)]
        assert torch.equal(torch.cat(parts), alone)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert (alone_epoch, whole) == (epoch, len(alone))
        sizes.append(len(alone))
        seen += alone.tolist()
    assert sorted(seen) == images.tolist()
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) == sampler.smallest_batch


def test_order_differs_by_epoch_and_by_seed_and_is_the_same_again():
    images = torch.arange(100)
    one = Sampler(images, 10, seed=1)
    assert torch.equal(one.order(0), Sampler(images, 10, seed=1).order(0))
    assert not torch.equal(one.order(0).clone(), one.order(1))
    assert not torch.equal(one.order(0), Sampler(images, 10, seed=2).order(0))
