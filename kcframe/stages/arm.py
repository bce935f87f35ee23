"""A student arm: one network of all classes, which learns from teachers, labels or both (eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kcframe.assembly.arms import Arm, resolve_arm
from kcframe.assembly.networks import build_student
from kcframe.assembly.plugins import build_objective
from kcframe.assembly.teacher_cache import cached_router
from kcframe.assembly.teachers import build_teachers, teacher_context
from kcframe.engine.evaluation.evaluate import Evaluation
from kcframe.engine.teachers.routing import Router
from kcframe.interfaces.objective import Objective
from kcframe.recipe.schema import Execution, Recipe, Train
from kcframe.stages.base import Workers
from kcframe.stages.context import Context
from kcframe.stages.samples import samples_of
from kcframe.stages.settings import arm_settings, shared_settings, specialists_settings
from kcframe.stages.training import Subject, TrainingStage
from kcframe.storage.layout import arm_folder
from kcframe.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class ArmStage(TrainingStage):
    """Trains one arm of the recipe, which it names."""

    arm: str

    @property
    def folder(self) -> str:
        return arm_folder(self.arm)

    @property
    def reader(self) -> str:
        return self.arm

    def __str__(self) -> str:
        return f"arm {self.arm}"

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        arm = self._resolved(recipe)
        settings = shared_settings(recipe) | {"arm": arm_settings(arm.spec, bool(arm.sources))}
        if arm.needs_specialists and recipe.specialists is not None:
            settings["specialists"] = specialists_settings(recipe.specialists)
        return settings

    def workers(self, execution: Execution) -> Workers:
        if execution.min_workers is not None and execution.max_workers is not None:
            return Workers(execution.min_workers, execution.max_workers)
        return Workers(execution.workers, execution.workers)

    def train(self, recipe: Recipe) -> Train:
        return recipe.arms[self.arm].train

    def class_ids(self, taxonomy: Taxonomy) -> Tensor:
        return torch.arange(taxonomy.num_classes)

    def subject(self, context: Context) -> Subject:
        recipe, source = context.recipe, context.source
        arm = self._resolved(recipe)
        # All arms start from the same seed and see the same pictures: they differ in what they name.
        torch.manual_seed(recipe.seed)
        student = build_student(arm.spec, source.channels, source.image_size, source.taxonomy)
        objective = build_objective(arm.spec.objective)
        return Subject(
            student=student,
            objective=objective,
            taxonomy=source.taxonomy,
            seed=recipe.seed,
            router=self._router(context, arm, objective) if arm.uses_teachers else None,
            about={"kind": "student", "arm": self.arm, "student": arm.spec.model_dump(mode="json")},
        )

    def samples(self, evaluation: Evaluation, context: Context) -> list[dict[str, Any]]:
        on_test = context.recipe.evaluation.split == "test"
        return samples_of(evaluation, context.source) if on_test else []

    def _resolved(self, recipe: Recipe) -> Arm:
        return resolve_arm(self.arm, recipe.arms[self.arm])

    def _router(self, context: Context, arm: Arm, objective: Objective) -> Router:
        recipe, source, run_dir, world = context.recipe, context.source, context.run_dir, context.world
        if recipe.teacher_cache is not None:
            return cached_router(
                arm, recipe, source, run_dir, world, objective=objective, observer=context.observer
            )
        teachers = build_teachers(arm, teacher_context(source, run_dir, recipe.specialists is not None))
        return Router(
            teachers, source.taxonomy.num_classes, objective.soften, objective.num_kept, world.device
        )
