"""What a student arm needs, resolved once a process: which teachers it asks, and how many outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from kcframe.assembly.plugins import build_objective, construct
from kcframe.engine.teachers.identity import looks_at_each_alone
from kcframe.interfaces.objective import Objective
from kcframe.interfaces.teacher import TeacherSource
from kcframe.recipe.schema import PluginRef, Recipe, StudentSpec
from kcframe.registry import Registry, installed


@dataclass(frozen=True, eq=False)
class Arm:
    """A student arm with the plugins that its plan depends on.

    objective: to be asked, not trained; a training builds its own. sources: the teacher sources, none if the
    objective asks no teacher.
    """

    name: str
    spec: StudentSpec
    objective: Objective
    sources: tuple[TeacherSource, ...]

    @property
    def uses_teachers(self) -> bool:
        """Whether any teacher is asked."""
        return self.objective.uses_teachers

    @property
    def needs_specialists(self) -> bool:
        """Whether this run's own specialists must be trained first."""
        return any(source.needs_specialists for source in self.sources)

    @property
    def wanted_outputs(self) -> int | None:
        """How many of a teacher's outputs, the most probable, the objective needs to know; None: all."""
        return self.objective.num_kept if looks_at_each_alone(self.objective.soften) else None


def resolve_arm(name: str, spec: StudentSpec) -> Arm:
    """An arm of a recipe; resolved once for each content in this process."""
    lines = (spec.objective.line, *(ref.line for ref in spec.teachers))
    objective, sources = _resolved(spec.model_dump_json(), lines, installed())
    return Arm(name, spec, objective, sources)


def resolve_arms(recipe: Recipe) -> dict[str, Arm]:
    """All arms of a recipe by name, in its order."""
    return {name: resolve_arm(name, spec) for name, spec in recipe.arms.items()}


def asking_teachers(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Those that ask teachers."""
    return {name: arm for name, arm in arms.items() if arm.uses_teachers}


def teacher_sources(spec: StudentSpec) -> tuple[TeacherSource, ...]:
    """The teacher sources that an arm names, built."""
    return tuple(construct("teacher", ref) for ref in spec.teachers)


@lru_cache(maxsize=256)
def _resolved(
    spec_json: str, lines: tuple[str, ...], registry: Registry
) -> tuple[Objective, tuple[TeacherSource, ...]]:
    """registry: what another registry has built is not the same.

    lines: where the recipe names the plugins, for messages; JSON does not hold them.
    """
    spec = StudentSpec.model_validate_json(spec_json)
    objective = build_objective(_at(spec.objective, lines[0]))
    if not objective.uses_teachers:
        return objective, ()
    refs = tuple(_at(ref, line) for ref, line in zip(spec.teachers, lines[1:], strict=True))
    return objective, teacher_sources(spec.model_copy(update={"teachers": refs}))


def _at(ref: PluginRef, line: str) -> PluginRef:
    return ref.model_copy(update={"line": line})
