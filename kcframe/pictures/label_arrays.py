"""Labels of many images, with their ancestors, without a Python object an image. n images, L labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IMAGES_AT_ONCE = 1_000_000  # whose labels get their ancestors together


def expanded(
    offsets: np.ndarray,
    labels: np.ndarray,
    lists: Sequence[Sequence[int]],
    sure: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(offsets, classes, confidences) with each label replaced by its list, ascending, each once; what
    several labels bring is as sure as the surest of them.

    offsets: int64 [n+1], from 0. labels: int [L], places in `lists`. sure: float32 [L] or None.
    """
    counts = np.array([len(each) for each in lists])
    flat = np.array([number for each in lists for number in each], np.int64)
    num_classes, num_images = int(flat.max(initial=0)) + 1, len(offsets) - 1
    first_of = np.r_[0, np.cumsum(counts)[:-1]]
    ends, classes, confidences = [np.zeros(1, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    for first in range(0, num_images, IMAGES_AT_ONCE):
        last = min(first + IMAGES_AT_ONCE, num_images)
        own = labels[offsets[first] : offsets[last]]
        rows = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))
        many = counts[own]
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        pairs = np.repeat(rows * num_classes, many) + flat[np.repeat(first_of[own], many) + within]
        if sure is None:
            pairs.sort()
        else:
            own_sure = np.repeat(sure[offsets[first] : offsets[last]], many)
            order = np.lexsort((-own_sure, pairs))
            pairs, own_sure = pairs[order], own_sure[order]
        fresh = np.diff(pairs, prepend=-1) != 0
        pairs = pairs[fresh]
        if sure is not None:
            confidences.append(own_sure[fresh])
        classes.append((pairs % num_classes).astype(np.int32))
        in_image = np.bincount(pairs // num_classes, minlength=last - first)
        ends.append(ends[-1][-1] + np.cumsum(in_image))
    found = None if sure is None else np.concatenate(confidences)
    return np.concatenate(ends), np.concatenate(classes), found
