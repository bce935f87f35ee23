"""Objectives that are broken on purpose are caught, and told what to do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kcframe.interfaces.objective import Objective

GOES_ON = "an interrupted run goes on to the same result"
EMPTY = "a vertical without any image in the batch gives a finite loss"
UNKNOWN = "unknown labels are no negatives"
TERMS = "terms are named and have one loss an image"


class Brier(Objective):
    """A good one, to be broken."""

    def forward(self, logits, targets):
        return {"hard": ((logits.sigmoid() - targets.hard.dense().to(logits)) ** 2).sum(1)}


class NanWithoutTargets(Objective):
    """Divides by the number of labels."""

    def forward(self, logits, targets):
        hard = targets.hard.dense().to(logits)
        each = F.binary_cross_entropy_with_logits(logits, hard, reduction="none").sum(1)
        return {"hard": each / hard.sum(1)}


class Naive(Objective):
    def forward(self, logits, targets):
        p, z = logits.sigmoid(), targets.hard.dense().to(logits)
        return {"hard": -(z * p.log() + (1 - z) * (1 - p).log()).sum(1)}


class Means(Brier):
    def forward(self, logits, targets):
        return {"hard": super().forward(logits, targets)["hard"].mean()}


class Unnamed(Brier):
    def forward(self, logits, targets):
        return super().forward(logits, targets)["hard"]


class ByClass(Brier):
    def forward(self, logits, targets):
        return {"hard": (logits.sigmoid() - targets.hard.dense().to(logits)) ** 2}


class Comes(Brier):
    """Has a second term only where there are labels."""

    def forward(self, logits, targets):
        terms = super().forward(logits, targets)
        return terms | {"labels": terms["hard"]} if len(targets.hard.rows) else terms


class SoftensToLogits(Brier):
    uses_teachers = True

    def soften(self, teacher_logits, temperature_scale=1.0):
        return teacher_logits / temperature_scale


class Learns(Brier):
    def __init__(self, options):
        super().__init__(options)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits, targets):
        return super().forward(self.scale * logits, targets)


class ForgetsItsSteps(Brier):
    steps = 0

    def forward(self, logits, targets):
        self.steps += 1
        return {"hard": super().forward(logits, targets)["hard"] / self.steps}


class NumbersOnly(Brier):
    """Takes a temperature_scale that is a number for granted."""

    def forward(self, logits, targets):
        scale = targets.temperature_scale
        return super().forward(logits / (scale if isinstance(scale, float) else 1.0), targets)


class WrongGradient(Brier):
    has_closed_form = True

    def gradient(self, logits, targets, share, out):
        p = logits.sigmoid()
        out.copy_(p - targets.hard.dense()).mul_(share("hard"))
        return self.forward(logits, targets)


class Promises(Brier):
    handles_unknown = True


class KnowsTooLittle(Objective):
    """Takes what is absent for what is unknown, too."""

    handles_unknown = True

    def forward(self, logits, targets):
        each = (logits.sigmoid() - targets.hard.dense().to(logits)) ** 2
        return {"hard": (each if targets.absent is None else each * targets.hard.dense()).sum(1)}


@pytest.mark.parametrize(
    ("plugin", "check", "said"),
    [
        (Promises, UNKNOWN, "what is neither a label nor absent counts as a negative"),
        (KnowsTooLittle, UNKNOWN, "differs between absent = None and all but the labels being absent"),
        (NanWithoutTargets, EMPTY, "'hard' of 6 images, none of them"),
        (Naive, "large logits give a finite loss", "softplus and logsigmoid stay finite"),
        (Means, "an image has its own loss", "give sums, not means"),
        (Unnamed, TERMS, "a Tensor: give a dict of named terms, each [B]"),
        (ByClass, TERMS, "gave float32 [6, 5], not floats [6]"),
        (Comes, TERMS, "the terms differ from batch to batch"),
        (SoftensToLogits, "teachers are softened to probabilities", "not 0 to 1"),
        (Learns, "it has no parameters that nobody trains", "parameter 'scale' would never be trained"),
        (ForgetsItsSteps, GOES_ON, "must be in its state_dict"),
        (NumbersOnly, "the temperature may be scaled", "differs between a temperature_scale of 2.0 and"),
        (WrongGradient, "its closed form is the derivative", "is not the gradient of forward()"),
    ],
)
def test_objectives(why, plugin, check, said):
    if "closed" not in check and check != UNKNOWN:
        assert why("objective", Brier, check) == ""
    assert said in why("objective", plugin, check)
