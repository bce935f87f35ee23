"""Put a class to single checks of its kind's suite."""

from __future__ import annotations

import pytest

from kcframe.registry import Component, installed
from kcframe.testing import SUITES
from kcframe.testing.checks import run_checks


@pytest.fixture
def why(monkeypatch):
    """why(kind, plugin, check) registers a class and says why a check of it fails; '' if it passes.

    check: in words, as `kcframe check-plugin` has it.
    """

    def judge(kind: str, plugin: type, check: str, options=None, **attributes) -> str:
        component = Component(kind, "x", "Tried.", plugin.Options, plugin, "kcframe-x", "1.0")
        monkeypatch.setitem(installed().components, (kind, "x"), component)
        plugin.name = "x"
        base, check = SUITES[kind], f"test_{check.replace(' ', '_')}"
        others = dict.fromkeys((n for n in dir(base) if n.startswith("test_") and n != check), None)
        assert hasattr(base, check), check
        suite = type("Suite", (base,), {**others, "name": "x", "options": options or {}, **attributes})
        (found,) = run_checks(suite)
        assert found.outcome != "skipped", found.why
        return found.why

    return judge
