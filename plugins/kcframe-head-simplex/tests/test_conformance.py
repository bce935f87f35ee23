"""The checks that every plugin of this kind has to pass."""

from __future__ import annotations

from kcframe.testing import ExpanderSuite


class TestSimplex(ExpanderSuite):
    name = "simplex"
    options = {"s1": 16, "s2": 8}
