"""The same batches by way of Ray Data. Only `kcframe bench data` uses it, to compare: see engine/batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import ray.data
import torch

from kcframe.assembly.source import build_source
from kcframe.engine.data.sampler import Sampler
from kcframe.interfaces.toolkit.randomness import image_keys
from kcframe.recipe.schema import Recipe
from kcframe.run.backends.ray.cluster import connect


@dataclass(frozen=True)
class Loaded:
    """images: float [B, C, H, W]."""

    images: torch.Tensor


class _Load:
    """An actor of Ray Data's: builds the source once, then makes pictures of image numbers."""

    def __init__(self, recipe: str):
        self.recipe = Recipe.model_validate_json(recipe)
        torch.set_num_threads(1)
        self.images = build_source(self.recipe).split("train")

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        indices, epochs = torch.from_numpy(rows["data"].copy()).unbind(1)
        keys = image_keys(self.recipe.seed, int(epochs[0]), indices)
        return {"images": self.images.load(indices, keys).numpy()}


def connect_and_load(recipe: Recipe, steps: range, processes: int) -> Iterator[Loaded]:
    """The batches of `steps` in order, loaded by `processes` actors."""
    connect(recipe.execution)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    images = build_source(recipe).split("train")
    batch_size = next(iter(recipe.arms.values())).train.batch_size
    sampler = Sampler(torch.arange(len(images)), batch_size, recipe.seed)
    # One block a batch, a row an image: its number and its epoch.
    blocks = []
    for step in steps:
        epoch, indices, _ = sampler.batch(step)
        blocks.append(np.stack([indices.numpy(), np.full(len(indices), epoch)], 1))
    dataset = ray.data.from_numpy(blocks).map_batches(
        _Load,
        fn_constructor_args=(recipe.model_dump_json(),),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=processes),
    )
    for batch in dataset.iter_torch_batches(batch_size=None, prefetch_batches=2):
        yield Loaded(batch["images"])
