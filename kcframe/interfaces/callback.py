"""The interface of callbacks: told what a stage does, to show it or keep it elsewhere.

A callback watches. It changes nothing of what is learned, and one that fails is switched off, with a
line that says why: a tracker's server that is down never costs a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kcframe.interfaces.options import PluginOptions
from kcframe.storage.remote import without_secrets

Readings = Mapping[str, Any]


@dataclass(frozen=True)
class StageInfo:
    """What is about to be trained.

    name: e.g. 'arm +D+SC'. folder: the stage's, below run_dir (a path or fsspec URL), e.g. 'arms/+D+SC'.
    settings: the part of the recipe that decides the stage, as plain values. verticals: M names.
    step: finished steps of num_steps, not 0 where an interrupted stage goes on.
    """

    name: str
    folder: str
    run_dir: str
    settings: Mapping[str, Any] = field(repr=False)
    verticals: tuple[str, ...]
    step: int
    num_steps: int

    @property
    def place(self) -> str:
        """The stage's folder, to be shown or noted: without user and password of run_dir's URL."""
        return without_secrets(f"{self.run_dir}/{self.folder}")


class Callback:
    """Subclass it, override what you need, and return it from the hook `kcframe_callback`.

    class Shout(Callback):
        name = "shout"
        def evaluated(self, readings): print("MPVAP", readings["mpvap"], "!")

    One object is made for each stage, in the process that trains it (worker 0's).
    """

    name: ClassVar[str]
    Options: ClassVar[type[PluginOptions]] = PluginOptions

    def __init__(self, options: PluginOptions):
        self.options = options

    def begin(self, stage: StageInfo) -> None:
        """Before the stage's first step, or the first after an interruption."""

    def step(self, readings: Readings) -> None:
        """A logged step, every `train.log_every`: the line that metrics.jsonl gets.

        'step', 'epoch', 'loss', 'terms' (name -> its sum), 'learning_rate', 'vertical_loss' ([M], smoothed)
        and what the pacing's `readings` give, each [M].
        """

    def evaluated(self, readings: Readings) -> None:
        """An evaluation: 'step', 'epoch', 'mpvap', 'top1', 'top5' (percent) and 'per_vertical'."""

    def end(self, finished: bool) -> None:
        """The stage's last words. finished: False if it was interrupted or failed."""
