"""What would fail hours later, told before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from kcframe.assembly.arms import Arm
from kcframe.assembly.teachers import teacher_context
from kcframe.errors import PluginError, RecipeError
from kcframe.interfaces.component import label
from kcframe.interfaces.data import DataSource
from kcframe.recipe.schema import PluginRef, Recipe
from kcframe.storage.run_dir import RunDir


def check_objectives(arms: Mapping[str, Arm], source: DataSource) -> None:
    """PluginError for an arm whose objective would take unknown labels for negatives."""
    for arm in arms.values():
        if not arm.objective.handles_unknown and source.split("train").absent is not None:
            raise PluginError(
                f"arms.{arm.name}: {label(arm.objective)} does not tell unknown labels from negatives, and "
                "this data has unknown ones: take hard-bce or top-k-bce, or data.options.unknown: negative"
            )


def check_teachers(recipe: Recipe, arms: Mapping[str, Arm], source: DataSource, run_dir: RunDir) -> None:
    """RecipeError for an arm that needs specialists which the recipe does not train, DataError or PluginError
    for a teacher that does not fit."""
    context = teacher_context(source, run_dir, recipe.specialists is not None)
    checked: list[PluginRef] = []
    for arm in arms.values():
        for ref, teachers in zip(arm.spec.teachers, arm.sources, strict=False):
            if teachers.needs_specialists and recipe.specialists is None:
                raise RecipeError(
                    f"arms.{arm.name}: learns from this run's specialists, but the recipe has no "
                    "'specialists' section: add one, or name other teachers"
                )
            if ref not in checked:  # arms mostly share their teachers
                checked.append(ref)
                teachers.check(context)
