"""The stages of a run, in an order in which one process can do them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kcframe.assembly.arms import Arm, asking_teachers, resolve_arms
from kcframe.recipe.schema import Recipe, StudentSpec
from kcframe.stages.arm import ArmStage
from kcframe.stages.base import Stage
from kcframe.stages.specialist import SpecialistStage
from kcframe.stages.teacher_outputs import TeacherOutputsStage
from kcframe.taxonomy import Taxonomy


@dataclass(frozen=True)
class Plan:
    """A run's stages by kind. Every stage stands behind those that it needs."""

    specialists: tuple[SpecialistStage, ...]
    outputs: tuple[TeacherOutputsStage, ...]
    arms: tuple[ArmStage, ...]

    def __iter__(self) -> Iterator[Stage]:
        return iter((*self.specialists, *self.outputs, *self.arms))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def before_arms(self) -> tuple[Stage, ...]:
        """What must be there before any arm that needs it."""
        return (*self.specialists, *self.outputs)


def plan_stages(
    recipe: Recipe, taxonomy: Taxonomy, learners: Mapping[str, StudentSpec] | None = None
) -> Plan:
    """Specialists by vertical, teachers' outputs if the recipe stores them, then the arms as it lists them.

    learners: the arms for which teachers are asked; None: the recipe's.
    """
    arms = resolve_arms(recipe)
    specialists = tuple(
        SpecialistStage(vertical=name)
        for name in (taxonomy.verticals if recipe.specialists is not None else ())
    )
    trained = tuple(stage.folder for stage in specialists)
    outputs = _teacher_outputs(recipe, taxonomy, arms, learners, trained)
    stored = tuple(stage.folder for stage in outputs)
    return Plan(
        specialists,
        outputs,
        tuple(ArmStage(arm=name, needs=_needs(arm, trained, stored)) for name, arm in arms.items()),
    )


def _needs(arm: Arm, specialists: tuple[str, ...], outputs: tuple[str, ...]) -> tuple[str, ...]:
    """An arm that learns from labels alone waits for nobody."""
    return (*(specialists if arm.needs_specialists else ()), *(outputs if arm.uses_teachers else ()))


def _teacher_outputs(
    recipe: Recipe,
    taxonomy: Taxonomy,
    arms: Mapping[str, Arm],
    learners: Mapping[str, StudentSpec] | None,
    specialists: tuple[str, ...],
) -> tuple[TeacherOutputsStage, ...]:
    asking = asking_teachers(arms)
    if recipe.teacher_cache is None or not recipe.teacher_cache.fill or not asking:
        return ()
    execution = recipe.execution
    # On a cluster, as many as train side by side.
    on_cluster = execution.backend == "ray"
    pieces = max(execution.workers, taxonomy.num_verticals) if on_cluster else 1
    needed = specialists if any(arm.needs_specialists for arm in asking.values()) else ()
    specs = dict(learners) if learners is not None else {name: arm.spec for name, arm in asking.items()}
    return tuple(
        TeacherOutputsStage(piece=piece, pieces=pieces, arms=specs, needs=needed) for piece in range(pieces)
    )
