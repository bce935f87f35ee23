"""A router whose teachers were asked before: it reads their stored outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kcframe.engine.teachers.routing import Router
from kcframe.engine.teachers.stored_outputs import Epoch, StoredOutputs
from kcframe.errors import TrainingError
from kcframe.interfaces.teacher import Teacher


class CachedRouter(Router):
    """Reads what each teacher said of an image in an epoch; the teachers' networks are let go."""

    def __init__(
        self,
        teachers: Sequence[Teacher],
        num_classes: int,
        soften: Callable[..., Tensor],
        num_kept: int | None,
        device: torch.device,
        *,
        stored: Sequence[StoredOutputs],
        seed: int,
    ):
        """stored: of each teacher. seed: of the run, that the outputs were stored for."""
        for teacher in teachers:
            teacher.network = nn.Identity()
        super().__init__(teachers, num_classes, soften, num_kept, device)
        self.stored, self.seed = stored, seed
        self.epochs: list[Epoch | None] = [None] * len(stored)

    def outputs(
        self, column: int, rows: Tensor, images: Tensor, epoch: int, indices: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        label_map, in_memory = self.teachers[column].label_map, self.epochs[column]
        if in_memory is None or in_memory.epoch != epoch:
            self.epochs[column] = None  # not two at a time
            in_memory = self.epochs[column] = Epoch(self.stored[column], self.seed, epoch)
        assert indices is not None  # the engine always says which pictures they are
        classes, logits = in_memory.of(indices[rows])
        class_ids = label_map if classes is None else classes.to(self.device).long()
        return class_ids, logits.to(self.device).float()

    def scaled(self, column: int, temperature_scale: Tensor) -> Tensor:
        scale = super().scaled(column, temperature_scale)
        if self.stored[column].whole:
            return scale
        if bool((scale != scale[0]).any()):
            raise TrainingError(
                f"teacher '{self.teachers[column].name}' knows classes of verticals with different "
                "temperatures, so which of its outputs are the most probable cannot be told from those that "
                f"are kept: set teacher_cache.k to {len(scale)}, to keep all, or leave teacher_cache out"
            )
        return scale[0]
