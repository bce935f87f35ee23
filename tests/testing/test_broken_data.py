"""Data sources that are broken on purpose are caught, and told what to do."""

from __future__ import annotations

import random
from functools import cached_property

import pytest
import torch

from kcframe.interfaces.data import DataSource, ImageSet, Labels
from kcframe.interfaces.toolkit.randomness import image_keys, keyed_uniforms
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.taxonomy import Taxonomy


class Noise(DataSource):
    """A good one, to be broken: noise under a label, of two verticals."""

    channels, image_size = 1, 8
    leaks = 0

    @cached_property
    def taxonomy(self):
        return Taxonomy.build({"a": ["all", "x", "y"], "b": ["z"]}, {"x": ["all"], "y": ["all"]})

    def split(self, name):
        return Noises(self, 0, 24) if name == "train" else Noises(self, 24 - self.leaks, 12)


class Noises(ImageSet):
    def __init__(self, source, first, number):
        self.first = first
        taxonomy = source.taxonomy
        self.labels = Labels.from_lists(taxonomy.with_ancestors([i % 3 + 1]) for i in range(number))

    def load(self, indices, keys):
        keys = image_keys(0, 0, indices + self.first) if keys is None else keys
        return keyed_uniforms(keys, 64).view(-1, 1, 8, 8)

    def name(self, index):
        return f"noise {self.first + index}"


class Leaks(Noise):
    leaks = 3


class OtherSize(Noise):
    transform = Transform(channels=1, image_size=16)


class Nameless(Noises):
    """Without names of its own only the pixels tell."""

    name = ImageSet.name


class LeaksInSecret(Noise):
    def split(self, name):
        return Nameless(self, 0, 24) if name == "train" else Nameless(self, 21, 12)


class Dice(Noises):
    """Draws from torch's generator."""

    def load(self, indices, keys):
        return (super().load(indices, keys) + 0.01 * torch.rand(len(indices), 1, 8, 8)).clamp(0, 1)


class OtherDice(Noises):
    """Draws from Python's."""

    def load(self, indices, keys):
        return (super().load(indices, keys) + 0.01 * random.random()).clamp(0, 1)


class ByBatch(Noises):
    def load(self, indices, keys):
        images = super().load(indices, keys)
        return (images - images.mean(0) + 0.5).clamp(0, 1)


class Bytes(Noises):
    def load(self, indices, keys):
        return 255 * super().load(indices, keys)


class WithoutParents(Noises):
    def __init__(self, source, first, number):
        super().__init__(source, first, number)
        self.labels = Labels.from_lists([i % 3 + 1] for i in range(number))


class ShuffledEachTime(Noise):
    def split(self, name):
        found = super().split(name)
        order = list(range(len(found)))
        random.shuffle(order)
        found.labels = found.labels.take(torch.tensor(order))
        return found


class LearnsFromTheTest(Noise):
    """Keeps as many training images as the test split had."""

    number = 24

    def split(self, name):
        if name == "test":
            self.number = 20
        return Noises(self, 0, self.number) if name == "train" else Noises(self, 24, 12)


def with_set(images: type) -> type:
    def split(self, name):
        return images(self, 0, 24) if name == "train" else images(self, 24, 12)

    return type(images.__name__, (Noise,), {"split": split})


@pytest.mark.parametrize(
    ("plugin", "check", "said"),
    [
        (Leaks, "no picture is in both splits", "'noise 21' is in the train split and in the test split"),
        (LeaksInSecret, "no picture is in both splits", "3 of 12 test pictures are training pictures"),
        (
            OtherSize,
            "pictures from elsewhere become as large",
            "transform has (channels, image_size) (1, 16), the source (1, 8)",
        ),
        (with_set(Dice), "a picture is a function of its key", "load() draws from torch's generator"),
        (with_set(OtherDice), "a picture is a function of its key", "is not the same the second time"),
        (with_set(ByBatch), "a picture is a function of its key", "depends on the others of its batch"),
        (with_set(Bytes), "pictures are what they should be", "not 0..1"),
        (with_set(WithoutParents), "labels are classes with their ancestors", "should be [0, 1]"),
        (ShuffledEachTime, "every worker has the same", "has other labels or order"),
        (
            LearnsFromTheTest,
            "training images do not depend on the test split",
            "once the test split was read",
        ),
    ],
)
def test_data(why, plugin, check, said):
    assert why("data", Noise, check) == ""
    assert said in why("data", plugin, check)


def test_pictures_may_look_alike_where_the_author_says_so(why):
    assert why("data", LeaksInSecret, "no picture is in both splits", may_look_alike=0.25) == ""
