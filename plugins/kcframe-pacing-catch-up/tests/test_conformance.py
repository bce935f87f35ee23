"""The checks that every plugin of this kind has to pass."""

from __future__ import annotations

from kcframe.testing import PacingSuite


class TestCatchUp(PacingSuite):
    name = "catch-up"
