"""Data source `synthetic`: any number of made-up classes; pictures are computed when they are read."""

from __future__ import annotations

import math
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from kcframe.builtin.sources.synthetic_options import SyntheticOptions
from kcframe.interfaces.data import DataSource, ImageSet, Labels
from kcframe.interfaces.toolkit.randomness import image_keys, keyed_uniforms
from kcframe.taxonomy import Taxonomy

PATTERN = 4  # a class is a PATTERN x PATTERN grid of random greys, enlarged smoothly
TEST_SEED = 1


class Synthetic(DataSource):
    """N classes in M verticals. The same options give the same pictures on every machine.

    Train and test split differ in the order of the labels and in the noise.
    """

    name = "synthetic"
    Options = SyntheticOptions
    options: SyntheticOptions

    def __init__(self, options: SyntheticOptions):
        super().__init__(options)
        self.channels, self.image_size = options.channels, options.image_size

    @cached_property
    def taxonomy(self) -> Taxonomy:
        digits = len(str(max(self.options.sizes)))
        return Taxonomy.build(
            {
                f"vertical {v}": [f"v{v} class {c:0{digits}d}" for c in range(size)]
                for v, size in enumerate(self.options.sizes)
            }
        )

    def split(self, name: str) -> SyntheticSet:
        options = self.options
        if name == "train":
            return SyntheticSet(options, options.train_images, 0)
        return SyntheticSet(options, options.test_images, TEST_SEED)


class SyntheticSet(ImageSet):
    def __init__(self, options: SyntheticOptions, num_images: int, seed: int):
        self.options, self.seed = options, seed
        generator = torch.Generator().manual_seed(seed)
        num_classes = sum(options.sizes)
        # Every class in turn, so that small sets have as many classes as possible.
        rounds = math.ceil(num_images * options.labels_per_image / num_classes)
        drawn = torch.cat([torch.randperm(num_classes, generator=generator) for _ in range(rounds)])
        drawn = drawn[: num_images * options.labels_per_image].view(num_images, -1)
        self.labels = Labels.from_lists(sorted(set(row)) for row in drawn.tolist())

    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        options, labels = self.options, self.labels.take(indices)
        size, channels = options.image_size, options.channels
        if keys is None:
            keys = image_keys(self.seed + 2, 0, indices)
        patterns = keyed_uniforms(image_keys(0, 0, labels.classes.long()), channels * PATTERN**2)
        patterns = patterns.view(-1, channels, PATTERN, PATTERN)
        mixed = torch.zeros(len(indices), channels, PATTERN, PATTERN).index_add_(0, labels.rows(), patterns)
        mixed /= labels.offsets.diff().view(-1, 1, 1, 1)
        images = F.interpolate(mixed, size=(size, size), mode="bilinear", align_corners=False)
        # The sum of four uniform numbers is close to a normal one, and needs no random state.
        draws = keyed_uniforms(keys, 4 * channels * size * size).view(len(indices), 4, channels, size, size)
        noise = (draws.sum(1) - 2) * math.sqrt(3)
        return (images + options.noise * noise).clamp(0, 1)
