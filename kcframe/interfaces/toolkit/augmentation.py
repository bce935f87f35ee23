"""Which part of a picture to look at in training: a random one.

The distribution is that of torchvision's RandomResizedCrop, which draws from torch's global state: neither
a function of a picture's key, nor safe in threads.
"""

from __future__ import annotations

import math

import numpy as np

from kcframe.interfaces.toolkit.transform import Box

SCALE = (0.35, 1.0)  # of a picture's area
RATIO = (3 / 4, 4 / 3)  # width : height
TRIES = 10  # crops drawn before settling for the centre


def random_box(size: tuple[int, int], draws: np.ndarray) -> Box | None:
    """A crop that fits, or None. size: (width, height). draws: float [TRIES, 4] in [0, 1)."""
    width, height = size
    for area_draw, ratio_draw, x_draw, y_draw in draws.tolist():
        area = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * area_draw)
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio_draw
        crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if crop_width <= width and crop_height <= height:
            left, top = (width - crop_width) * x_draw, (height - crop_height) * y_draw
            return left, top, left + crop_width, top + crop_height
    return None
