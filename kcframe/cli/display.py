"""The display of a run in a terminal: a bar for all stages, one for each at work, a line for each that ends.
Where the output is no terminal, only the lines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from kcframe.engine.evaluation.evaluate import Evaluation
    from kcframe.engine.observer import Observer
    from kcframe.stages.base import Stage


class RunDisplay(AbstractContextManager):
    """A run's observer that prints. should_stop: what it says when it is asked whether to stop."""

    def __init__(self, console: Console, should_stop: Callable[[], bool] = lambda: False):
        self.console, self.should_stop = console, should_stop
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.shown: dict[Stage, _StageDisplay] = {}
        self.whole: TaskID | None = None

    def __enter__(self) -> RunDisplay:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def plan(self, stages: Sequence[Stage], done: int) -> None:
        self.whole = self.progress.add_task("stages", total=len(stages), completed=done, note="")

    def begin(self, stage: Stage) -> Observer:
        task = self.progress.add_task(str(stage), total=None, note="")
        self.shown[stage] = _StageDisplay(
            self.progress, task, lambda text: self.say(f"  {stage}: {text}"), self.should_stop
        )
        return self.shown[stage]

    def end(self, stage: Stage) -> None:
        shown = self.shown.pop(stage)
        self.progress.remove_task(shown.task)
        if self.whole is not None:
            self.progress.advance(self.whole)
        took = time.monotonic() - shown.began
        self.say(f"  {stage!s:<36} {took:6.1f} s   {shown.note}")


class _StageDisplay:
    def __init__(
        self,
        progress: Progress,
        task: TaskID,
        say: Callable[[str], None],
        should_stop: Callable[[], bool],
    ):
        self.progress, self.task, self.say, self.should_stop = progress, task, say, should_stop
        self.began = time.monotonic()
        self.note = ""

    def step(self, step: int, num_steps: int, loss: float) -> None:
        note = self.note if math.isnan(loss) else f"loss {loss:.3g}  {self.note}"
        self.progress.update(self.task, completed=step, total=num_steps, note=note)

    def evaluated(self, epoch: int, evaluation: Evaluation) -> None:
        mpvap = evaluation.mean("ap")
        self.note = "" if mpvap is None else f"mpvap {mpvap:.1f}"
