"""The interface of callbacks: they receive the progress of a stage, to show it or to store it elsewhere.

A callback must not change the training. If it raises an error, it is switched off with a message, and the run
goes on: so a tracker's server that is down does not stop a run.
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
    """The stage that is about to be trained.

    name: e.g. 'arm +D+SC'. folder: the stage's folder below run_dir, e.g. 'arms/+D+SC'. run_dir: a path or
    fsspec URL. settings: the part of the recipe that determines the stage, as plain values. verticals: M
    names. step: number of finished steps, of num_steps; above 0 if an interrupted stage continues.
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
        """URL of the stage's folder for messages and records, without user and password."""
        return without_secrets(f"{self.run_dir}/{self.folder}")


class Callback:
    """Subclass it, override what you need, and return it from the hook `kcframe_callback`.

    class Shout(Callback):
        name = "shout"
        def evaluated(self, readings): print("MPVAP", readings["mpvap"], "!")

    One object is made per stage, in the process of worker 0.
    """

    name: ClassVar[str]
    Options: ClassVar[type[PluginOptions]] = PluginOptions

    def __init__(self, options: PluginOptions):
        self.options = options

    def begin(self, stage: StageInfo) -> None:
        """Called before the stage's first step, or before the first step after an interruption."""

    def step(self, readings: Readings) -> None:
        """Called every `train.log_every` steps with the values that are written to metrics.jsonl.

        They are 'step', 'epoch', 'loss', 'terms' (name -> sum), 'learning_rate', 'vertical_loss' ([M],
        smoothed) and the results of the pacing's `readings`, each [M].
        """

    def evaluated(self, readings: Readings) -> None:
        """Called after an evaluation: 'step', 'epoch', 'mpvap', 'top1', 'top5' (percent), 'per_vertical'."""

    def end(self, finished: bool) -> None:
        """Called at the end of the stage. finished: False if it was interrupted or failed."""
