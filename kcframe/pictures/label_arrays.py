"""Labels of many images with their ancestors, in arrays without one Python object per image.

n images, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IMAGES_AT_ONCE = 1_000_000  # images per step; a step needs memory for all of its labels and their ancestors


def expanded(
    offsets: np.ndarray,
    labels: np.ndarray,
    lists: Sequence[Sequence[int]],
    sure: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Replaces each label by the classes of its list: (offsets, classes, confidences).

    An image's classes are ascending, without duplicates. A class that comes from several labels gets the
    highest of their confidences.

    offsets: int64 [n+1], starts at 0. labels: int [L], indices into `lists`. sure: the labels' confidences,
    float32 [L], or None; then the third result is None.
    """
    counts = np.array([len(classes) for classes in lists])
    flat = np.array([class_id for classes in lists for class_id in classes], np.int64)
    num_classes, num_images = int(flat.max(initial=0)) + 1, len(offsets) - 1
    first_of = np.r_[0, np.cumsum(counts)[:-1]]
    ends, classes, confidences = [np.zeros(1, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    for first in range(0, num_images, IMAGES_AT_ONCE):
        last = min(first + IMAGES_AT_ONCE, num_images)
        image_labels = labels[offsets[first] : offsets[last]]
        rows = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))
        many = counts[image_labels]
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        pairs = np.repeat(rows * num_classes, many) + flat[np.repeat(first_of[image_labels], many) + within]
        if sure is None:
            pairs.sort()
        else:
            pair_sure = np.repeat(sure[offsets[first] : offsets[last]], many)
            order = np.lexsort((-pair_sure, pairs))
            pairs, pair_sure = pairs[order], pair_sure[order]
        fresh = np.diff(pairs, prepend=-1) != 0
        pairs = pairs[fresh]
        if sure is not None:
            confidences.append(pair_sure[fresh])
        classes.append((pairs % num_classes).astype(np.int32))
        in_image = np.bincount(pairs // num_classes, minlength=last - first)
        ends.append(ends[-1][-1] + np.cumsum(in_image))
    joined = None if sure is None else np.concatenate(confidences)
    return np.concatenate(ends), np.concatenate(classes), joined
