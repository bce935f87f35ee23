"""The validation cut: whole groups, a function of the seed, never all of the images."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kcframe.engine.data.holdout import held_out


@given(st.integers(2, 200), st.integers(1, 9), st.floats(0.01, 0.85), st.integers(0, 5))
def test_whole_groups_of_about_the_share(num_images, num_groups, share, seed):
    groups = torch.arange(num_images) % num_groups
    held = held_out(groups, num_images, share, seed)
    for group in groups.unique():
        assert held[groups == group].unique().numel() == 1
    assert not held.all()
    largest = int(groups.bincount().max())
    assert held.sum() < share * num_images + largest
    kept = len(groups.unique()) - len(groups[held].unique())
    assert held.sum() >= share * num_images or kept == 1


def test_single_images_by_seed():
    one, same, other = (held_out(None, 1000, 0.1, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 100 <= one.sum() <= 101


def test_new_groups_leave_the_others_where_they_are():
    groups = torch.arange(50)
    fewer, more = held_out(groups, 50, 0.2, 3), held_out(torch.arange(51), 51, 0.2, 3)
    assert (fewer == more[:50]).sum() >= 48
