"""Tools for the tests of a plugin: a suite of checks for each kind, and helpers for tests of your own.

A suite has the checks that every plugin of its kind must pass. Subclass it:

    from kcframe.testing import PacingSuite

    class TestCatchUp(PacingSuite):
        name = "catch-up"            # as it is registered
        options = {"rate": 0.5}      # as a recipe would give them

pytest runs it like any other class of tests; `kcframe check-plugin catch-up` runs the same checks without
pytest. A check that does not suit a plugin is overridden like any method, or left out:

    test_an_image_is_paced_by_itself = None  # here all images of a batch are compared, on purpose

Helpers for tests of your own (a plugin's tests should import no other part of the engine):

* `run_recipe` trains a whole recipe, interrupts it, and returns a `Run` with its weights and metrics.
* `make_head`, `make_targets` and `head_gradients` give the engine's terms and gradients, to compare with a
  dense reference.
* `make_block_targets` and `make_sparse_targets` make the targets of a direct call of an objective.
* `routed_targets` asks teachers for the targets of an objective, as a step does.
* `progress_at` makes the Progress of a step; `checked_weights` gives a pacing's weights as a step gets them.
* `teacher_context` makes what a run tells a teacher source.
* `build_plugin` builds an installed plugin by its name.
* `count_parameters` counts as `kcframe describe` does.
* `modules_loaded_for_options` says what Python imports to check a recipe.
"""

from kcframe.engine.model import count_parameters
from kcframe.testing.backbone import BackboneSuite
from kcframe.testing.blocks import HeadGradients, head_gradients, make_head
from kcframe.testing.callback import CallbackSuite
from kcframe.testing.context import teacher_context
from kcframe.testing.data import DataSuite
from kcframe.testing.expander import ExpanderSuite
from kcframe.testing.objective import ObjectiveSuite
from kcframe.testing.pacing import PacingSuite
from kcframe.testing.plugins import build_plugin, modules_loaded_for_options
from kcframe.testing.progress import checked_weights, progress_at
from kcframe.testing.runs import Run, run_recipe
from kcframe.testing.suite import PluginSuite
from kcframe.testing.targets import make_block_targets, make_sparse_targets, make_targets, routed_targets
from kcframe.testing.teacher import TeacherSuite

SUITES: dict[str, type[PluginSuite]] = {
    suite.kind: suite
    for suite in (
        DataSuite,
        TeacherSuite,
        PacingSuite,
        ExpanderSuite,
        ObjectiveSuite,
        BackboneSuite,
        CallbackSuite,
    )
}
"""Kind of plugin -> its suite."""

__all__ = [
    "SUITES",
    "BackboneSuite",
    "CallbackSuite",
    "DataSuite",
    "ExpanderSuite",
    "HeadGradients",
    "ObjectiveSuite",
    "PacingSuite",
    "PluginSuite",
    "Run",
    "TeacherSuite",
    "build_plugin",
    "checked_weights",
    "count_parameters",
    "head_gradients",
    "make_block_targets",
    "make_head",
    "make_sparse_targets",
    "make_targets",
    "modules_loaded_for_options",
    "progress_at",
    "routed_targets",
    "run_recipe",
    "teacher_context",
]
