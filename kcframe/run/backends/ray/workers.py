"""What runs in Ray's processes: a stage by itself in a task, or one worker's part of it in a worker group."""

from __future__ import annotations

from typing import Any

import ray
import torch
import torch.distributed

from kcframe.engine.world import World
from kcframe.errors import Interrupted, KcframeError, StorageError
from kcframe.recipe.schema import Recipe
from kcframe.run.backends.local import choose_device
from kcframe.run.backends.ray.messages import Reporter
from kcframe.stages.base import Stage
from kcframe.stages.context import Context
from kcframe.storage.run_dir import RunDir


def run_in_task(stage: Stage, recipe: Recipe, url: str, board: ray.actor.ActorHandle) -> None:
    """A stage with a single worker. url: of the run directory."""
    world = World(device=choose_device(recipe.execution.device))
    _guarded(stage, recipe, url, world, board)


def run_in_worker_group(config: dict[str, Any]) -> None:
    """One worker's part of a stage, under TorchTrainer: the process group is there already."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    device = choose_device(config["recipe"].execution.device)
    world = World(
        context.get_world_rank(),
        context.get_world_size(),
        ray.train.torch.get_device() if device.type == "cuda" else device,
        _all_reduce,
    )
    _guarded(config["stage"], config["recipe"], config["url"], world, config["board"])


def _all_reduce(tensor: torch.Tensor) -> None:
    torch.distributed.all_reduce(tensor)


def _guarded(stage: Stage, recipe: Recipe, url: str, world: World, board: ray.actor.ActorHandle) -> None:
    """Run a stage. What another attempt cannot mend is posted to the board, so that there is none."""
    reporter, run_dir = Reporter(board, stage.folder, world.rank), RunDir(url)
    # A stage may have ended just before the process that would have said so was lost.
    done = stage.is_finished(run_dir)
    # Together: the wish to stop may reach the board between two workers' questions.
    if world.any(reporter.post("begin", world.size) or done):
        return
    try:
        stage.run(Context.build(recipe, run_dir, world, reporter))
    except StorageError:
        raise
    except Interrupted as error:
        reporter.post("interrupted", str(error))
    except KcframeError as error:
        reporter.post("failed", str(error))
        if world.size > 1:
            # The others wait for this worker: only its end releases them.
            raise
