"""Whole runs in a test: the real engine trains a recipe in this process, and the test reads the results."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from kcframe.assembly.networks import build_student
from kcframe.assembly.saved import load_specialist
from kcframe.assembly.source import build_source
from kcframe.engine.checkpoint import unpack_weights
from kcframe.engine.evaluation.evaluate import Evaluation
from kcframe.engine.metrics_log import read_metrics
from kcframe.errors import Interrupted
from kcframe.interfaces.data import DataSource
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import Recipe
from kcframe.registry import installed
from kcframe.run import pipeline
from kcframe.stages.arm import ArmStage
from kcframe.stages.base import Stage
from kcframe.stages.plan import Plan
from kcframe.storage.layout import RESULTS, WEIGHTS, arm_folder, specialist_folder
from kcframe.storage.run_dir import RunDir


class RecordingObserver:
    """Observes a run and its stages: records the lines for the user, and may interrupt the run.

    stop_after: the run stops after this number of steps of arms (steps of specialists do not count); None:
    never. said: the lines, in order. arm_steps: the number of steps of arms so far.
    """

    def __init__(self, stop_after: int | None = None):
        self.stop_after = stop_after
        self.arm_steps = 0
        self.said: list[str] = []
        self._in_arm = False

    def plan(self, stages: Sequence[Stage], done: int) -> None: ...

    def begin(self, stage: Stage) -> RecordingObserver:
        self._in_arm = isinstance(stage, ArmStage)
        return self

    def end(self, stage: Stage) -> None: ...

    def step(self, step: int, num_steps: int, loss: float) -> None:
        self.arm_steps += self._in_arm

    def evaluated(self, epoch: int, evaluation: Evaluation) -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)

    def should_stop(self) -> bool:
        return self.stop_after is not None and self.arm_steps >= self.stop_after


@dataclass(frozen=True)
class Run:
    """A run directory after `run_recipe`, and how to read it.

    recipe: the checked recipe. folder: the run directory. finished: False if `stop_after` interrupted the
    run. said: the lines that the run has for its user.

    A method that reads a file raises RunDirError if the run has not written it yet.
    """

    recipe: Recipe
    folder: str
    finished: bool
    said: list[str] = field(default_factory=list)

    @property
    def results(self) -> dict[str, Any]:
        """The content of results.json: the figures of every arm."""
        return self._run_dir.read_json(RESULTS)

    def weights(self, arm: str) -> dict[str, Tensor]:
        """The weights of a trained arm, by the names of the student's state_dict."""
        name = f"{arm_folder(arm)}/{WEIGHTS}"
        weights, _ = unpack_weights(self._run_dir.read(name), self._run_dir.shown(name))
        return weights

    def metrics(self, arm: str, kind: str | None = None) -> list[dict[str, Any]]:
        """The lines of an arm's metrics.jsonl, oldest first; a number that is nan is None there.

        kind: 'step' or 'evaluation', for the lines of this kind alone.
        """
        lines = read_metrics(self._run_dir, arm_folder(arm))
        return [line for line in lines if kind in (None, line["kind"])]

    def student(self, arm: str) -> nn.Module:
        """A trained arm's network in evaluation mode: images [B, C, H, W] in 0..1 -> logits [B, S], S the sum
        of the verticals' numbers of classes.

        `features(images)` gives the backbone's features [B, D]; `head` is as `make_head` describes it.
        """
        source = self.source
        student = build_student(self.recipe.arms[arm], source.channels, source.image_size, source.taxonomy)
        student.load_state_dict(self.weights(arm))
        return student.eval()

    @property
    def source(self) -> DataSource:
        """The run's data source, built anew."""
        return build_source(self.recipe)

    def specialist_file(self, vertical: str) -> str:
        """The path of a specialist's weights, as the option `path` of the teacher `checkpoint` takes it."""
        return self._run_dir.path(f"{specialist_folder(vertical)}/{WEIGHTS}")

    def specialist(self, vertical: str) -> tuple[nn.Module, dict[str, Any]]:
        """A trained specialist: (network, about).

        network: images [B, C, H, W] in 0..1 -> logits [B, N_v]. about: 'classes' (N_v names), 'channels' and
        'image_size', from its file.
        """
        return load_specialist(self.specialist_file(vertical))

    @property
    def _run_dir(self) -> RunDir:
        return RunDir(self.folder)


def run_recipe(
    recipe: Mapping[str, Any] | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *overrides: str,
    stop_after: int | None = None,
) -> Run:
    """Run a recipe on the CPU, in this process, as `kcframe run` does.

    recipe: the recipe's tree, or the path of its file. folder: the run directory; a second call with the same
    recipe and folder continues an interrupted run. overrides: `path=value`, as `--set` takes them.
    stop_after: interrupt the run after this number of steps of arms; None: train to the end.

    Raises RecipeError if the recipe is wrong, PluginError if a plugin is, and every other error of a run. An
    interruption by `stop_after` is no error: the Run says that it is not finished.
    """
    checked = load(recipe, "execution.device=cpu", *overrides)
    return _observed(pipeline.run, checked, folder, stop_after)


def train_recipe(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    stop_after: int | None = None,
    *,
    choose: Callable[[Plan], Iterable[Stage]] = iter,
) -> Run:
    """As `run_recipe` for a checked recipe, without results.json and the report: for a tiny recipe they take
    longer than the training. choose: the stages of the plan that are trained; all of them if left out."""
    return _observed(partial(pipeline.train, choose=choose), recipe, folder, stop_after)


def _observed(
    work: Callable[[Recipe, RunDir, RecordingObserver], Any],
    recipe: Recipe,
    folder: str | os.PathLike[str],
    stop_after: int | None,
) -> Run:
    """Call `work` with a RecordingObserver. An interruption that `stop_after` asked for is no error."""
    observer = RecordingObserver(stop_after)
    finished = True
    try:
        work(recipe, RunDir(folder), observer)
    except Interrupted:
        if stop_after is None:
            raise
        finished = False
    return Run(recipe, os.fspath(folder), finished, observer.said)


def load(recipe: Mapping[str, Any] | str | os.PathLike[str], *overrides: str) -> Recipe:
    """Check a recipe, given as a tree or as the path of its file. Raises RecipeError with all problems."""
    if not isinstance(recipe, Mapping):
        return load_recipe(os.fspath(recipe), installed(), overrides)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
        return load_recipe(str(file), installed(), overrides)
