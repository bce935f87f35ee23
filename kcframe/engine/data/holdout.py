"""A validation split, cut off the training images."""

from __future__ import annotations

import torch
from torch import Tensor

from kcframe.interfaces.data import Labels
from kcframe.interfaces.toolkit.randomness import image_keys


def held_out(
    groups: Tensor | None, num_images: int, share: float, seed: int, labels: Labels | None = None
) -> Tensor:
    """bool [num_images]: the images of the validation split, at least `share` of all, in whole groups.

    groups: int64 [num_images] or None (see `ImageSet.groups`). The choice is a function of the seed and of a
    group's own number, so new images do not move old ones. labels: of the images; the last group that has
    images of some class is taken only if no other group is left. At least one group stays to train on.
    """
    if groups is None:
        groups = torch.arange(num_images)
    names, members, counts = groups.unique(return_inverse=True, return_counts=True)
    order = image_keys(seed, 0, names).argsort()
    if labels is not None and len(labels.classes):
        # For each class, the last group in the order that has it is needed for training.
        place = order.argsort()[members[labels.rows()]]
        classes = labels.classes.long()
        last = torch.full((int(classes.max()) + 1,), -1).scatter_reduce(0, classes, place, "amax")
        needed = torch.zeros(len(names), dtype=torch.bool)
        needed[last[last >= 0]] = True
        order = torch.cat([order[~needed], order[needed]])
    before = counts[order].cumsum(0) - counts[order]
    taken = before < share * num_images
    taken[-1] = False
    chosen = torch.zeros(len(names), dtype=torch.bool)
    chosen[order[taken]] = True
    return chosen[members]
