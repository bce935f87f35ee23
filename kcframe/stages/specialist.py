"""A vertical's specialist: one network that learns that vertical's images alone (eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kcframe.assembly.networks import build_specialist
from kcframe.assembly.plugins import build_objective
from kcframe.recipe.schema import Execution, PluginRef, Recipe, Specialists, Train
from kcframe.stages.base import Workers
from kcframe.stages.context import Context
from kcframe.stages.settings import shared_settings, specialists_settings
from kcframe.stages.training import Subject, TrainingStage
from kcframe.storage.layout import specialist_folder
from kcframe.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class SpecialistStage(TrainingStage):
    """Trains the specialist of one vertical, which it names."""

    vertical: str

    reader = "specialists"

    @property
    def folder(self) -> str:
        return specialist_folder(self.vertical)

    def __str__(self) -> str:
        return f"specialist {self.vertical}"

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        return shared_settings(recipe) | {"specialists": specialists_settings(_section(recipe))}

    def workers(self, execution: Execution) -> Workers:
        return Workers(execution.specialist_workers, execution.specialist_workers)

    def train(self, recipe: Recipe) -> Train:
        return _section(recipe).train

    def class_ids(self, taxonomy: Taxonomy) -> Tensor:
        return torch.from_numpy(taxonomy.local_ids(taxonomy.verticals.index(self.vertical)))

    def subject(self, context: Context) -> Subject:
        recipe, source = context.recipe, context.source
        spec = _section(recipe)
        vertical = source.taxonomy.verticals.index(self.vertical)
        taxonomy = source.taxonomy.only(vertical)
        # Each specialist has its own seed: else all of them would start alike.
        seed = recipe.seed * 10_007 + vertical + 1
        torch.manual_seed(seed)
        return Subject(
            student=build_specialist(spec, source.channels, source.image_size, taxonomy.num_classes),
            objective=build_objective(PluginRef(name="hard-bce")),
            taxonomy=taxonomy,
            seed=seed,
            about={
                "kind": "specialist",
                "vertical": self.vertical,
                "backbone": spec.backbone.model_dump(mode="json"),
                "classes": list(taxonomy.classes),
            },
        )


def _section(recipe: Recipe) -> Specialists:
    """A plan has specialists only where the recipe has them."""
    assert recipe.specialists is not None
    return recipe.specialists
