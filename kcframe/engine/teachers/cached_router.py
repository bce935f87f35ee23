"""A Router whose teachers were asked before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kcframe.engine.teachers.routing import Router
from kcframe.engine.teachers.stored_outputs import Epoch, Part
from kcframe.errors import TrainingError
from kcframe.interfaces.teacher import Teacher


class KeptRouter(Router):
    """Reads what its teachers said of an image in an epoch; their networks are let go."""

    def __init__(
        self,
        teachers: Sequence[Teacher],
        num_classes: int,
        soften: Callable[..., Tensor],
        num_kept: int | None,
        device: torch.device,
        parts: Sequence[Part],
        seed: int,
    ):
        """parts: of each teacher."""
        for teacher in teachers:
            teacher.network = nn.Identity()
        super().__init__(teachers, num_classes, soften, num_kept, device)
        self.parts, self.seed = parts, seed
        self.epochs: list[Epoch | None] = [None] * len(parts)

    def ask(
        self, column: int, own: Tensor, images: Tensor, epoch: int, indices: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        label_map, part = self.teachers[column].label_map, self.parts[column]
        there = self.epochs[column]
        if there is None or there.epoch != epoch:
            self.epochs[column] = None  # not two at a time
            there = self.epochs[column] = Epoch(part, self.seed, epoch)
        classes, logits = there.of(indices[own])
        named = label_map if classes is None else classes.to(self.device).long()
        return named, logits.to(self.device).float()

    def scaled(self, column: int, temperature_scale: Tensor) -> Tensor:
        own = super().scaled(column, temperature_scale)
        if self.parts[column].whole:
            return own
        if bool((own != own[0]).any()):
            raise TrainingError(
                f"teacher '{self.teachers[column].name}' knows classes of verticals with different "
                "temperatures, so which of its outputs are the most probable cannot be told from those that "
                f"are kept: set teacher_cache.k to {len(own)}, to keep all, or leave teacher_cache out"
            )
        return own[0]
