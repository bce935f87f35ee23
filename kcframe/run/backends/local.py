"""Everything in this process, one stage after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kcframe.engine.world import World
from kcframe.errors import Interrupted, RecipeError, TrainingError
from kcframe.recipe.schema import Recipe
from kcframe.run.backends.base import Backend, RunObserver, stages_failed
from kcframe.stages.base import Stage
from kcframe.stages.context import Context
from kcframe.storage.run_dir import RunDir


class LocalBackend(Backend):
    """`execution: {backend: local}`."""

    def run(self, stages: Sequence[Stage], recipe: Recipe, run_dir: RunDir, observer: RunObserver) -> None:
        world = World(device=choose_device(recipe.execution.device))
        failures: dict[str, str] = {}
        out_of_reach: set[str] = set()  # folders of stages that failed, or need one that did
        for stage in stages:
            if not out_of_reach.isdisjoint(stage.needs):
                out_of_reach.add(stage.folder)
                continue
            try:
                stage.run(Context.build(recipe, run_dir, world, observer.begin(stage)))
            except Interrupted as error:
                if failures:
                    raise Interrupted(f"{error}; before that, {len(failures)} stages failed") from None
                raise
            except TrainingError as error:
                if len(stages) == 1:
                    raise
                # Not the error itself, which holds on to all that the stage had in memory.
                failures[str(stage)] = str(error)
                out_of_reach.add(stage.folder)
                observer.say(str(error))
            else:
                observer.end(stage)
        if failures:
            raise TrainingError(stages_failed(failures, len(stages), len(out_of_reach) - len(failures)))


def choose_device(wanted: str) -> torch.device:
    """'auto', 'cpu' or 'cuda' as a device. RecipeError if there is no such device here."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RecipeError("execution.device: cuda is asked for, but torch sees no GPU here; use auto or cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
