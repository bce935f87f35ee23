"""Random crops for training.

The distribution is that of torchvision's RandomResizedCrop. That class is not used because it draws from
torch's global state: its result is not a function of a picture's key, and it is not thread-safe.
"""

from __future__ import annotations

import math

import numpy as np

from kcframe.interfaces.toolkit.transform import Box

SCALE = (0.35, 1.0)  # area of a crop, as a share of the picture's
RATIO = (3 / 4, 4 / 3)  # width : height
TRIES = 10  # number of crops that are drawn; if none fits, the centre is used


def random_box(size: tuple[int, int], draws: np.ndarray) -> Box | None:
    """The first random crop that fits, or None. size: (width, height). draws: float [TRIES, 4] in [0, 1)."""
    width, height = size
    for area_draw, ratio_draw, x_draw, y_draw in draws.tolist():
        area = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * area_draw)
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio_draw
        crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if crop_width <= width and crop_height <= height:
            left, top = (width - crop_width) * x_draw, (height - crop_height) * y_draw
            return left, top, left + crop_width, top + crop_height
    return None
