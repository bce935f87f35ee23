"""Backbones that are broken on purpose are caught, and told what to do."""

from __future__ import annotations

import pytest
from torch import nn

from kcframe.interfaces.backbone import Backbone


class Averages(Backbone):
    """A good one, to be broken."""

    def __init__(self, options, channels, image_size):
        super().__init__(options, channels, image_size)
        self.num_features = 8
        self.layer = nn.Conv2d(channels, 8, 4, stride=4)

    def forward(self, images):
        return self.layer(images).mean((2, 3))


class Lies(Averages):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.num_features = 9


class ForOneSizeOnly(Averages):
    """Has as many features as there are places, but counts them for 32 pixels."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.num_features = 8 * 8 * 8

    def forward(self, images):
        return self.layer(images).flatten(1)


class DropsInEvaluation(Averages):
    def forward(self, images):
        return nn.functional.dropout(super().forward(images), 0.5, training=True)


class NormalisesTheBatch(Averages):
    def forward(self, images):
        return super().forward(images - images.mean((0, 2, 3), keepdim=True))


class ThreeMeans(Averages):
    mean, std = (0.4, 0.5, 0.6), (1.0, 1.0)


class Blind(Averages):
    def forward(self, images):
        return super().forward(images * 0)


class LearnsFromTests(Averages):
    """Running statistics, kept in evaluation mode too."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, images):
        self.norm.train()
        return self.norm(super().forward(images))


@pytest.mark.parametrize(
    ("plugin", "check", "said"),
    [
        (
            Lies,
            "num features says how many there are",
            "forward() gives [4, 8] for 4 pictures of 1 x 32 x 32",
        ),
        (ForOneSizeOnly, "num features says how many there are", "for 4 pictures of 1 x 40 x 40"),
        (DropsInEvaluation, "being measured changes nothing", "the same input gives another result"),
        (NormalisesTheBatch, "one picture is enough for evaluation", "depend on the other pictures"),
        (ThreeMeans, "its normalisation fits its channels", "mean has 3 numbers for 1 channels"),
        (Blind, "different pictures have different features", "nothing can be learned from them"),
        (LearnsFromTests, "being measured changes nothing", "must not be the test images"),
    ],
)
def test_backbones(why, plugin, check, said):
    assert why("backbone", Averages, check) == ""
    assert said in why("backbone", plugin, check)
