"""Which teacher sees which image, and what they say (eq. 2's z*).

An image asks the teachers that know one of its labels (not of those that are more likely wrong): for
specialists, the label picks the vertical and the vertical picks the teacher. Each teacher sees its own images
once, in inference mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kcframe.engine.plugin_calls import ask_tensor, finite
from kcframe.interfaces.data import Labels
from kcframe.interfaces.teacher import Teacher

CLOSELY = 10  # batches in which a GPU is waited for to see whether what teachers say is finite


class Router:
    """Asks teachers and unites what they say into sparse soft targets.

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
        self.names_twice = any(len(own.unique()) < len(own) for own in maps)
        self.calls = 0
        self.images_routed = 0
        """Images seen by this router."""
        self.teacher_images = 0
        """Images that teachers were asked about, summed over teachers."""

    def assign(self, labels: Labels) -> Tensor:
        """bool [B, T]: which of T teachers each image asks."""
        asked = torch.zeros(len(labels), len(self.teachers), dtype=torch.int32)
        likely = labels.likely()
        asked.index_add_(0, likely.rows(), self.knows[likely.classes.long()].int())
        return asked > 0

    def ask(
        self, column: int, own: Tensor, images: Tensor, epoch: int, indices: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What a teacher says of some images: (class ids int64 [C] or [b, C], logits float32 [b, C]).

        own: int64 [b], rows of the batch, on the CPU. images, epoch, indices: as in `__call__`.
        """
        teacher, own = self.teachers[column], own.to(self.device)
        logits = ask_tensor(teacher, "forward", (len(own), len(teacher.label_map)), images[own]).float()
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
            own = asked[:, column].nonzero().flatten()
            if not len(own):
                continue
            self.teacher_images += len(own)
            named, logits = self.ask(column, own, images, epoch, indices)
            scale = () if temperature_scale is None else (self.scaled(column, temperature_scale),)
            said = self.soften(logits, *scale)
            named = named.expand_as(said)
            kept = self.num_kept
            if kept is not None and kept < said.shape[1]:
                said, which = said.topk(kept, dim=1)
                named = named.gather(1, which)
            rows.append(own.to(self.device)[:, None].expand_as(said).flatten())
            classes.append(named.flatten())
            values.append(said.flatten())
        orphans = self.orphan[labels.classes.long()]
        rows.append(labels.rows()[orphans].to(self.device))
        classes.append(labels.classes[orphans].long().to(self.device))
        values.append(labels.sure()[orphans].to(self.device))
        found = torch.cat(rows), torch.cat(classes), torch.cat(values)
        # Of what one teacher says of an image nothing is there twice; nor do orphans meet anything.
        alone = not self.names_twice and (len(self.teachers) == 1 or bool((asked.sum(1) <= 1).all()))
        return found if alone else self._unite(*found)

    def _unite(self, rows: Tensor, classes: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pairs, place = torch.unique(rows * self.num_classes + classes, return_inverse=True)
        united = torch.zeros(len(pairs), dtype=values.dtype, device=values.device)
        united.scatter_reduce_(0, place, values, "amax")
        return pairs // self.num_classes, pairs % self.num_classes, united
