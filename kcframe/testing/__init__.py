"""What plugin authors subclass to prove their plugin: one suite a kind of plugin.

    from kcframe.testing import PacingSuite

    class TestCatchUp(PacingSuite):
        name = "catch-up"            # as it is registered
        options = {"rate": 0.5}      # as a recipe would give them

pytest runs it like any other class of tests; `kcframe check-plugin catch-up` runs the same checks without
pytest. A check that does not suit a plugin is overridden like any method, or left out:

    test_an_image_is_paced_by_itself = None  # here all images of a batch are compared, on purpose
"""

from kcframe.testing.backbone import BackboneSuite
from kcframe.testing.callback import CallbackSuite
from kcframe.testing.data import DataSuite
from kcframe.testing.expander import ExpanderSuite
from kcframe.testing.objective import ObjectiveSuite
from kcframe.testing.pacing import PacingSuite
from kcframe.testing.suite import PluginSuite
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
    "ObjectiveSuite",
    "PacingSuite",
    "PluginSuite",
    "TeacherSuite",
]
