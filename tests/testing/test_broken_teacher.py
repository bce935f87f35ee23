"""Teachers that are broken on purpose are caught, and told what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kcframe.errors import DataError
from kcframe.interfaces.teacher import Teacher, TeacherSource


class Knows(TeacherSource):
    """A good one, to be broken: knows the classes of one vertical."""

    vertical = "vertical 0"
    last: tuple[nn.Module, ...] = ()

    def check(self, context):
        if self.vertical not in context.taxonomy.verticals:
            raise DataError("no such vertical")

    def teachers(self, context):
        self.check(context)
        own = torch.from_numpy(context.taxonomy.vertical_classes(0)).long()
        network = nn.Sequential(nn.Flatten(), nn.Linear(context.channels * context.image_size**2, len(own)))
        nn.init.normal_(network[1].weight, std=0.1, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(network[1].bias)
        return [self.teacher(nn.Sequential(*network, *self.last), self.label_map(own), context)]

    def label_map(self, own):
        return own

    def teacher(self, network, label_map, context):
        channels = context.channels
        return Teacher("t", network, label_map, channels=channels, mean=(0.5,), std=(0.5,), input_size=None)


class SaysProbabilities(Knows):
    last = (nn.Softmax(1),)


class SaysLogProbabilities(Knows):
    last = (nn.LogSoftmax(1),)


class BeyondTheTaxonomy(Knows):
    def label_map(self, own):
        return own + 7


class SaysItLate(Knows):
    def check(self, context): ...

    def teachers(self, context):
        Knows.check(self, context)
        return super().teachers(context)


class Drops(Knows):
    """Switches itself back to training mode."""

    class Always(nn.Module):
        def forward(self, logits):
            return nn.functional.dropout(logits, 0.5, training=True)

    last = (Always(),)


class NewEachTime(Knows):
    def teachers(self, context):
        (found,) = super().teachers(context)
        nn.init.normal_(found.network[1].weight)
        return [found]


class OneTooMany(Knows):
    last = (nn.ConstantPad1d((0, 1), 0.0),)


class FailsInCode(Knows):
    def teachers(self, context):
        return [{"vertical 0": 1}[context.taxonomy.verticals[0]]] and super().teachers(context)


@pytest.mark.parametrize(
    ("plugin", "check", "said"),
    [
        (SaysProbabilities, "outputs are logits and no probabilities", "lie in 0..1, as probabilities do"),
        (SaysLogProbabilities, "outputs are logits and no probabilities", "a softmax's log-probabilities"),
        (BeyondTheTaxonomy, "label maps name classes that there are", "its label map names class 11"),
        (SaysItLate, "check says early that classes are unknown", "hours later teachers() says: no such"),
        (FailsInCode, "check says early that classes are unknown", "raises KeyError"),
        (Drops, "it says the same of the same picture", "says something else of the same pictures"),
        (NewEachTime, "every worker has the same teachers", "is built with other weights each time"),
        (OneTooMany, "outputs are a logit a class", "forward() gave float32 [4, 6], not floats [4, 5]"),
    ],
)
def test_teachers(why, plugin, check, said):
    assert why("teacher", Knows, check) == ""
    assert said in why("teacher", plugin, check)
