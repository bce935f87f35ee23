"""One optimizer step: a batch's images forward, the head block by block, all workers' gradients, the update.

Shapes: B images of this worker, M verticals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from kcframe.engine.data.batches import Batch
from kcframe.engine.loss.blocks import Outcome, backward_by_block
from kcframe.engine.loss.closed_form import Workspace
from kcframe.engine.loss.pacing_checks import temperatures_of, weights_of
from kcframe.engine.loss.targets import SlotIndex, SlotTargets, block_targets
from kcframe.engine.model import Student
from kcframe.engine.optimizer import clip_gradients, set_learning_rate
from kcframe.engine.teachers.routing import Router
from kcframe.engine.world import World
from kcframe.interfaces.data import Labels
from kcframe.interfaces.objective import BlockTargets, Objective
from kcframe.interfaces.pacing import Progress
from kcframe.recipe.schema import Train
from kcframe.taxonomy import Taxonomy


@dataclass(frozen=True)
class Pace:
    """What the pacing says of one step. weights: see `Pacing.weights`. temperatures: float [M] or None."""

    weights: Tensor | Mapping[str, Tensor] | None
    temperatures: Tensor | None


class TrainStep:
    """Learns from one batch at a time (eq. 1 to 4)."""

    def __init__(
        self,
        student: Student,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        router: Router | None,
        *,
        taxonomy: Taxonomy,
        train: Train,
        world: World,
        images_per_pass: int | None = None,
    ):
        """router: None if no teacher is asked. images_per_pass: see `execution.images_per_pass`."""
        self.student, self.objective, self.optimizer, self.router = student, objective, optimizer, router
        self.train, self.world, self.images_per_pass = train, world, images_per_pass
        self.index = SlotIndex(taxonomy, world.device)
        self.workspace = Workspace()

    def __call__(self, batch: Batch, progress: Progress, learning_rate: float) -> Outcome:
        """Returns the terms of the whole batch's loss, and this worker's tallies."""
        pace = self._pace(progress)
        self.optimizer.zero_grad(set_to_none=True)
        outcome = self._forward_and_backward(batch, pace)
        self._reduce(outcome)
        self._update(learning_rate)
        return outcome

    def _pace(self, progress: Progress) -> Pace:
        pacing = self.student.head.pacing
        with self._autocast():
            return Pace(weights_of(pacing, progress), temperatures_of(pacing, progress))

    def _forward_and_backward(self, batch: Batch, pace: Pace) -> Outcome:
        """Add the batch's gradients to the parameters, some images at a time."""
        passes = list(batch.passes(self.images_per_pass))
        filtered = self.train.gradient_filter
        # What the passes may leave out adds up like the sides of a right angle, see `gradient_filter`.
        error = None if filtered == "off" else filtered / len(passes) ** 0.5
        outcomes = []
        for some in passes:
            with self._autocast():
                outcomes.append(self._one_pass(some, pace, error))
        return reduce(Outcome.plus, outcomes)

    def _one_pass(self, batch: Batch, pace: Pace, filter_error: float | None) -> Outcome:
        images = batch.images.to(self.world.device, non_blocking=True)
        targets = self._targets(batch, images, pace.temperatures)
        return backward_by_block(
            self.student.head,
            self.objective,
            self.student.features(images),
            targets,
            pace.weights,
            # Each worker and pass divides by the whole batch, so that sums are the whole batch's mean.
            batch_size=batch.whole,
            workspace=self.workspace,
            filter_error=filter_error,
        )

    def _targets(
        self, batch: Batch, images: Tensor, temperatures: Tensor | None
    ) -> Callable[[int], BlockTargets]:
        """vertical -> its BlockTargets."""
        hard, soft = self._hard(batch.labels), None
        absent = None if batch.absent is None else self._hard(batch.absent)
        if self.router is not None:
            scale = None if temperatures is None else self.index.by_class(temperatures)
            triples = self.router(images, batch.labels, scale, batch.epoch, batch.indices)
            soft = SlotTargets(self.index, len(batch.labels), *triples)

        def of(vertical: int) -> BlockTargets:
            return block_targets(hard, soft, vertical, temperatures, absent)

        return of

    def _hard(self, labels: Labels) -> SlotTargets:
        """Labels as targets: how sure each of them is."""
        triples = (t.to(self.world.device) for t in (labels.rows(), labels.classes, labels.sure()))
        return SlotTargets(self.index, len(labels), *triples)

    def _reduce(self, outcome: Outcome) -> None:
        """Sum gradients and terms over all workers."""
        self.world.sum(p.grad for p in self.student.parameters() if p.grad is not None)
        self.world.sum(outcome.terms.values())

    def _update(self, learning_rate: float) -> None:
        clip_gradients(self.student, self.train.clip_gradient_norm)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()

    @property
    def learning_rate(self) -> float:
        """The rate of the last step, of the first parameter group."""
        return self.optimizer.param_groups[0]["lr"]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.train.precision == "bfloat16":
            return torch.autocast(self.world.device.type, dtype=torch.bfloat16)
        return nullcontext()
