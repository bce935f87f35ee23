"""Which part of a picture to look at: a random part for training, the middle for evaluation.

The distribution is that of torchvision's RandomResizedCrop, which draws from torch's global state: neither
a function of a picture's key, nor safe in threads.
"""

from __future__ import annotations

import math

import numpy as np

Box = tuple[float, float, float, float]
"""left, top, right, bottom, in pixels; fractions are meant."""

SCALE = (0.35, 1.0)  # of a picture's area
RATIO = (3 / 4, 4 / 3)  # width : height
TRIES = 10  # crops drawn before settling for the centre
CENTRE = 7 / 8  # of the short side


def centre_box(size: tuple[int, int]) -> Box:
    """What is left of a picture when its short side becomes 8/7 S and the middle S x S is kept."""
    width, height = size
    side = min(size) * CENTRE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(size: tuple[int, int], draws: np.ndarray) -> Box:
    """A crop that fits. size: (width, height). draws: float [TRIES, 4] in [0, 1)."""
    width, height = size
    for area_draw, ratio_draw, x_draw, y_draw in draws.tolist():
        area = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * area_draw)
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio_draw
        crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if crop_width <= width and crop_height <= height:
            left, top = (width - crop_width) * x_draw, (height - crop_height) * y_draw
            return left, top, left + crop_width, top + crop_height
    return centre_box(size)
