"""Random numbers that are a function of a key: there is no state to save and no order to keep.

An image's augmentation is a function of (seed, epoch, index). So it does not depend on the batch size, on the
number of workers, or on an interruption.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's output function: uint64 -> well-mixed uint64, element by element."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def image_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """int64 [B]: the keys of images `indices` (int64 [B]) in an epoch."""
    start = mix(mix(np.asarray([seed], dtype=np.uint64)) + np.uint64(epoch))
    return torch.from_numpy(mix(start + indices.numpy().astype(np.uint64)).view(np.int64))


def keyed_uniforms(keys: Tensor, num: int) -> Tensor:
    """float32 [B, num] in [0, 1): the first `num` draws of each key (int64 [B])."""
    with np.errstate(over="ignore"):
        counters = np.arange(1, num + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)
        drawn = mix(keys.numpy().view(np.uint64)[:, None] + counters)
    return torch.from_numpy(((drawn >> np.uint64(40)).astype(np.float32)) * np.float32(2**-24))
