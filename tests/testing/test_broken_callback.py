"""Callbacks that are broken on purpose are caught, and told what to do."""

from __future__ import annotations

import pytest
import torch

from kcframe.interfaces.callback import Callback


class Listens(Callback):
    """A good one, to be broken."""

    def begin(self, stage):
        self.heard = [stage.name]

    def evaluated(self, readings):
        self.heard.append(readings["mpvap"])


class NeedsNumbers(Listens):
    def evaluated(self, readings):
        self.heard.append(f"{readings['mpvap']:.1f}")


class Draws(Listens):
    def step(self, readings):
        self.run = torch.randint(10**9, ())


class EndsTooEarly(Listens):
    """Takes for granted that it was told something."""

    def end(self, finished):
        return self.heard[1]


class Fails(Listens):
    def step(self, readings):
        if readings["step"] == 3:
            raise ConnectionError("the tracker is down")


class OneForAll(Listens):
    """Keeps what it knows in the class."""

    at_work: str | None = None

    def begin(self, stage):
        super().begin(stage)
        type(self).at_work = stage.name

    def end(self, finished):
        if self.at_work != self.heard[0]:
            raise RuntimeError(f"{self.heard[0]} is not at work")
        type(self).at_work = None


@pytest.mark.parametrize(
    ("plugin", "check", "said"),
    [
        (NeedsNumbers, "readings may have no value", "TypeError: unsupported format string"),
        (Draws, "it draws no random numbers", "it draws from torch's generator"),
        (EndsTooEarly, "a stage may end before its first step", "IndexError"),
        (
            Fails,
            "a run ends the same with it and without it",
            "switched off for this stage: step(): Connection",
        ),
        (OneForAll, "several stages have an object each", "arm 0 is not at work"),
    ],
)
def test_callbacks(why, plugin, check, said):
    assert why("callback", Listens, check) == ""
    assert said in why("callback", plugin, check)
