"""Pacing that is broken on purpose is caught, and told what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kcframe.interfaces.pacing import Pacing

GOES_ON = "an interrupted run goes on to the same result"
SAVED = "its state survives a checkpoint"
MEASURED = "being measured changes nothing"
DEVICE = "it moves to another device"
GRADIENT = "gradients flow through the logits"


class Scaled(Pacing):
    """A good one, to be broken."""

    def __init__(self, options, sizes, num_classes):
        super().__init__(options, sizes, num_classes)
        self.gamma = nn.Parameter(torch.ones(len(sizes)))

    def forward(self, logits, vertical):
        return self.gamma[vertical] * logits


class Detaches(Scaled):
    def forward(self, logits, vertical):
        return self.gamma[vertical] * logits.detach()


class DetachesAPart(Scaled):
    def forward(self, logits, vertical):
        return self.gamma[vertical] * logits / (1 + logits.detach().square().sum(1, keepdim=True)).sqrt()


class Forgets(Scaled):
    """Counts its steps, but not in its state."""

    steps = 0

    def weights(self, progress):
        self.steps += 1
        return torch.full((len(self.sizes),), 1 / self.steps)


class ForgetsAScale(Scaled):
    scale = 1.0

    def forward(self, logits, vertical):
        if self.training:
            self.scale *= 0.9
        return self.scale * super().forward(logits, vertical)


class Peeks(Scaled):
    """Keeps a mean of all logits it sees, those of test images too."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.register_buffer("mean", torch.zeros(len(self.sizes)))

    def forward(self, logits, vertical):
        self.mean[vertical] = 0.9 * self.mean[vertical] + 0.1 * logits.detach().float().mean()
        return super().forward(logits, vertical) - self.mean[vertical]


class StaysBehind(Scaled):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.shift = torch.zeros(max(self.sizes))

    def forward(self, logits, vertical):
        return logits * self.gamma[vertical] + self.shift[: logits.shape[1]]


class DividesByNothing(Scaled):
    def forward(self, logits, vertical):
        return self.gamma[vertical] * logits / logits.norm(dim=1, keepdim=True)


class WrongShape(Scaled):
    def forward(self, logits, vertical):
        return super().forward(logits, vertical).mean(1)


class NegativeWeights(Scaled):
    def weights(self, progress):
        return progress.num_steps / 2 - torch.full((len(self.sizes),), float(progress.step))


class NanAtFirst(Scaled):
    def weights(self, progress):
        return progress.loss / progress.loss.sum()


class ByItsOwnDice(Scaled):
    """Draws from a generator that nobody seeds."""

    def forward(self, logits, vertical):
        noise = torch.rand(logits.shape, generator=torch.Generator().manual_seed(id(self) % 2**31))
        return super().forward(logits, vertical) + noise.to(logits)


class BadReadings(Scaled):
    def readings(self):
        return {"loss": torch.zeros(len(self.sizes))}


class WrongClosedForm(Scaled):
    has_closed_form = True

    def forward_(self, logits, vertical):
        logits.mul_(self.gamma[vertical])

    def pull_back_(self, gradient, paced, vertical, saved):
        """Forgets gamma's own gradient."""
        gradient.mul_(self.gamma[vertical])


@pytest.mark.parametrize(
    ("plugin", "check", "said"),
    [
        (Detaches, GRADIENT, "the gradient of forward() with 5 classes is not its derivative"),
        (DetachesAPart, GRADIENT, "is there a detach() on a part of it?"),
        (Forgets, GOES_ON, "what the plugin remembers between steps must be in its state_dict"),
        (ForgetsAScale, SAVED, "something that matters is not in the state_dict"),
        (Peeks, MEASURED, "what it learns from must not be the test images"),
        (StaysBehind, DEVICE, "after .to(device) it meets a tensor left behind: make it a buffer"),
        (DividesByNothing, "logits of zero stay finite", "logits that are all 0 (of 5 classes) has 10 of"),
        (WrongShape, "paced logits keep their shape", "forward() gave float32 [6], not floats [6, 5]"),
        (NegativeWeights, "weights and temperatures fit at any time", "weights() gave a negative one"),
        (
            NanAtFirst,
            "weights and temperatures fit at any time",
            "weights() gave numbers that are not finite",
        ),
        (ByItsOwnDice, "it is built alike from the same seed", "torch's default generator is the only"),
        (ByItsOwnDice, GOES_ON, "two runs with the same seed differ"),
        (BadReadings, "readings are a number a vertical", "gave 'loss', which the metrics have already"),
        (WrongClosedForm, "its closed form is the derivative", "the gradient of 'gamma' differs"),
    ],
)
def test_pacing(why, plugin, check, said):
    assert why("pacing", Scaled, check if "closed" not in check else GRADIENT) == ""
    assert said in why("pacing", plugin, check)
