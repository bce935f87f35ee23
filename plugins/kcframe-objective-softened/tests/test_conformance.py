"""The checks that every plugin of this kind has to pass."""

from __future__ import annotations

from kcframe.testing import ObjectiveSuite


class TestSoftened(ObjectiveSuite):
    name = "softened"
