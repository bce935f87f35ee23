"""What a stage works with, in the process that runs it."""

from __future__ import annotations

from dataclasses import dataclass

from kcframe.assembly.plugins import build_callbacks
from kcframe.assembly.source import build_source
from kcframe.engine.callbacks import Callbacks
from kcframe.engine.observer import Observer
from kcframe.engine.world import World
from kcframe.interfaces.data import DataSource
from kcframe.recipe.schema import Recipe
from kcframe.storage.run_dir import RunDir


@dataclass(frozen=True)
class Context:
    """Objects never travel: every process makes its own from the recipe.

    world: which worker this is. observer: is told what happens, and says when to stop.
    """

    recipe: Recipe
    source: DataSource
    run_dir: RunDir
    world: World
    observer: Observer

    @classmethod
    def build(cls, recipe: Recipe, run_dir: RunDir, world: World, observer: Observer) -> Context:
        """Builds the data source."""
        return cls(recipe, build_source(recipe), run_dir, world, observer)

    def callbacks(self) -> Callbacks:
        """The recipe's callbacks; one process of a worker group is enough to tell them."""
        callbacks = () if self.world.rank else build_callbacks(self.recipe)
        return Callbacks(callbacks, self.observer.say)
