"""The checks that every plugin of this kind has to pass."""

from __future__ import annotations

from kcframe.testing import PacingSuite


class TestCurriculum(PacingSuite):
    name = "curriculum"


class TestFade(PacingSuite):
    name = "fade"
