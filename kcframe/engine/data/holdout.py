"""A validation split, cut off the training images."""

from __future__ import annotations

import torch
from torch import Tensor

from kcframe.interfaces.data import Labels
from kcframe.interfaces.toolkit.randomness import image_keys


def held_out(
    groups: Tensor | None, num_images: int, share: float, seed: int, labels: Labels | None = None
) -> Tensor:
    """bool [num_images]: the images that nobody trains on, at least `share` of them, in whole groups.

    groups: int64 [num_images] or None (see `ImageSet.groups`). Which ones go is a function of the seed and
    of a group's own number, so new images do not move old ones. labels: of the images; a group whose loss
    would leave a class without any goes only when no other is left. At least one group stays to train on.
    """
    if groups is None:
        groups = torch.arange(num_images)
    names, members, counts = groups.unique(return_inverse=True, return_counts=True)
    order = image_keys(seed, 0, names).argsort()
    if labels is not None and len(labels.classes):
        # Of each class, the last group that has it is kept for it.
        place = order.argsort()[members[labels.rows()]]
        classes = labels.classes.long()
        last = torch.full((int(classes.max()) + 1,), -1).scatter_reduce(0, classes, place, "amax")
        kept = torch.zeros(len(names), dtype=torch.bool)
        kept[last[last >= 0]] = True
        order = torch.cat([order[~kept], order[kept]])
    before = counts[order].cumsum(0) - counts[order]
    taken = before < share * num_images
    taken[-1] = False
    chosen = torch.zeros(len(names), dtype=torch.bool)
    chosen[order[taken]] = True
    return chosen[members]
