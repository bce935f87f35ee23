"""Which teacher sees which image, and the soft targets that result (z* of eq. 2).

An image asks the teachers that know one of its labels (not of those that are more likely wrong): for
specialists, the label picks the vertical and the vertical picks the teacher. Each teacher sees its own images
once, in inference mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kcframe.engine.plugin_calls import call_for_tensor, finite
from kcframe.interfaces.data import Labels
from kcframe.interfaces.teacher import Teacher

CLOSELY = 10  # batches in which a GPU is waited for to see whether what teachers say is finite


class Router:
    """Asks teachers and unites their outputs into sparse soft targets.

    A class that several asked teachers name gets the largest of their probabilities (our choice). A
    label that no teacher at all knows keeps its hard value: with no one to ask, eq. 2 would train it
    as a negative.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        num_classes: int,
        soften: Callable[..., Tensor],
        num_kept: int | None,
        device: torch.device,
    ):
        self.teachers = [teacher.to(device).eval().requires_grad_(False) for teacher in teachers]
        self.num_classes, self.soften, self.num_kept = num_classes, soften, num_kept
        self.device = device
        self.knows = torch.zeros(num_classes, len(teachers), dtype=torch.bool)
        for column, teacher in enumerate(teachers):
            self.knows[teacher.label_map.cpu(), column] = True
        self.orphan = ~self.knows.any(1)
        maps = [teacher.label_map for teacher in self.teachers]
        self.names_twice = any(len(label_map.unique()) < len(label_map) for label_map in maps)
        self.calls = 0
        self.images_routed = 0
        """Images seen by this router."""
        self.teacher_images = 0
        """Images that teachers were asked about, summed over teachers."""

    def state(self) -> list[int]:
        """The counts, for a checkpoint."""
        return [self.images_routed, self.teacher_images]

    def restore(self, state: list[int]) -> None:
        self.images_routed, self.teacher_images = state

    def assign(self, labels: Labels) -> Tensor:
        """bool [B, T]: which of T teachers each image asks."""
        asked = torch.zeros(len(labels), len(self.teachers), dtype=torch.int32)
        likely = labels.likely()
        asked.index_add_(0, likely.rows(), self.knows[likely.classes.long()].int())
        return asked > 0

    def outputs(
        self, column: int, rows: Tensor, images: Tensor, epoch: int, indices: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """A teacher's outputs for some images: (class ids int64 [C] or [b, C], logits float32 [b, C]).

        rows: int64 [b], of the batch, on the CPU. images, epoch, indices: as in `__call__`.
        """
        teacher, rows = self.teachers[column], rows.to(self.device)
        shape = (len(rows), len(teacher.label_map))
        logits = call_for_tensor(teacher, "forward", shape, images[rows]).float()
        if self.device.type == "cpu" or self.calls <= CLOSELY:
            finite(teacher, "forward", logits)
        return teacher.label_map, logits

    def scaled(self, column: int, temperature_scale: Tensor) -> Tensor:
        """What a teacher's temperatures are multiplied by: [C], or one number for all of its classes."""
        return temperature_scale[self.teachers[column].label_map]

    @torch.inference_mode()
    def __call__(
        self,
        images: Tensor,
        labels: Labels,
        temperature_scale: Tensor | None = None,
        epoch: int = 0,
        indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """images: float [B, C, H, W] in 0..1 on the device -> z* as (rows int64, classes int64, values
        float32), each pair of row and class once. temperature_scale: [N], or None for all 1. epoch, indices:
        which pictures these are, int64 [B]."""
        asked = self.assign(labels)
        self.images_routed += len(labels)
        self.calls += 1
        rows, classes, values = [], [], []
        for column in range(len(self.teachers)):
            routed = asked[:, column].nonzero().flatten()
            if not len(routed):
                continue
            self.teacher_images += len(routed)
            class_ids, logits = self.outputs(column, routed, images, epoch, indices)
            scale = () if temperature_scale is None else (self.scaled(column, temperature_scale),)
            probabilities = self.soften(logits, *scale)
            class_ids = class_ids.expand_as(probabilities)
            if self.num_kept is not None and self.num_kept < probabilities.shape[1]:
                probabilities, top = probabilities.topk(self.num_kept, dim=1)
                class_ids = class_ids.gather(1, top)
            rows.append(routed.to(self.device)[:, None].expand_as(probabilities).flatten())
            classes.append(class_ids.flatten())
            values.append(probabilities.flatten())
        orphans = self.orphan[labels.classes.long()]
        rows.append(labels.rows()[orphans].to(self.device))
        classes.append(labels.classes[orphans].long().to(self.device))
        values.append(labels.sure()[orphans].to(self.device))
        targets = torch.cat(rows), torch.cat(classes), torch.cat(values)
        # One teacher never names a class of an image twice; nor does an orphan meet a teacher's class.
        alone = not self.names_twice and (len(self.teachers) == 1 or bool((asked.sum(1) <= 1).all()))
        return targets if alone else self._unite(*targets)

    def _unite(self, rows: Tensor, classes: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pairs, place = torch.unique(rows * self.num_classes + classes, return_inverse=True)
        united = torch.zeros(len(pairs), dtype=values.dtype, device=values.device)
        united.scatter_reduce_(0, place, values, "amax")
        return pairs // self.num_classes, pairs % self.num_classes, united
