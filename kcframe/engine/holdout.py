"""A validation split, cut off the training images."""

from __future__ import annotations

import torch
from torch import Tensor

from kcframe.interfaces.randomness import image_keys


def held_out(groups: Tensor | None, num_images: int, share: float, seed: int) -> Tensor:
    """bool [num_images]: the images that nobody trains on, at least `share` of them, in whole groups.

    groups: int64 [num_images] or None (see `ImageSet.groups`). Which ones go is a function of the seed and
    of a group's own number, so new images do not move old ones. At least one group stays to train on.
    """
    if groups is None:
        groups = torch.arange(num_images)
    names, members, counts = groups.unique(return_inverse=True, return_counts=True)
    order = image_keys(seed, 0, names).argsort()
    before = counts[order].cumsum(0) - counts[order]
    taken = before < share * num_images
    taken[-1] = False
    chosen = torch.zeros(len(names), dtype=torch.bool)
    chosen[order[taken]] = True
    return chosen[members]
