"""Plugins come in through hooks; what is wrong with one is said in its name."""

from __future__ import annotations

import types
import warnings
from importlib.metadata import EntryPoint

import pytest

from kcframe import registry as module
from kcframe.errors import PluginError
from kcframe.interfaces.hooks import hookimpl
from kcframe.interfaces.pacing import Pacing
from kcframe.registry import KINDS, Registry


class Warm(Pacing):
    """Warms up."""

    name = "warm"


def plugin(name="idea", **hooks):
    """A module with hook implementations that return the given lists."""
    found = types.ModuleType(name)
    for hook, returned in hooks.items():
        setattr(found, hook, hookimpl(_returning(returned)))
    return found


def _returning(value):
    return lambda: value


def test_builtins_come_through_the_same_hooks():
    found = Registry.discover()
    own = {kind for (kind, _), component in found.components.items() if component.distribution == "kcframe"}
    assert own == set(KINDS) - {"callback"}  # trackers have their own distribution
    assert found.get("pacing", "self-paced").distribution == "kcframe"


@pytest.mark.parametrize(("kind", "name"), sorted(Registry.discover().components))
def test_every_builtin_loads_and_says_its_own_name(kind, name):
    component = Registry.discover().get(kind, name)
    loaded = component.load()
    assert loaded.name == name
    assert loaded.Options is component.options
    assert component.summary
    assert all(field.description for field in component.options.model_fields.values()), name


def test_a_class_is_enough():
    found = Registry()
    found.add(plugin(kcframe_pacing=[Warm]), "kcframe-warm", "1.0")
    component = found.get("pacing", "warm")
    assert (component.summary, component.version, component.load()) == ("Warms up.", "1.0", Warm)


def test_two_of_one_name_are_refused_naming_both_distributions():
    found = Registry()
    found.add(plugin("one", kcframe_pacing=[Warm]), "kcframe-one", "1.0")
    with pytest.raises(PluginError, match=r"pacing 'warm'.*kcframe-one 1\.0.*kcframe-two 2\.0"):
        found.add(plugin("two", kcframe_pacing=[Warm]), "kcframe-two", "2.0")


def test_a_misspelt_hook_is_refused():
    with pytest.raises(PluginError, match=r"kcframe-x 1: .*kcframe_pacings"):
        Registry().add(plugin(kcframe_pacings=[Warm]), "kcframe-x", "1")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([object], "return classes derived from Pacing"),
        ([type("Nameless", (Pacing,), {})], "Nameless has no name"),
        (
            [type("Odd", (Pacing,), {"name": "odd", "Options": dict})],
            "Odd.Options must derive from PluginOptions",
        ),
    ],
)
def test_what_is_no_plugin_of_the_kind_is_refused(returned, message):
    with pytest.raises(PluginError, match=message):
        Registry().add(plugin(kcframe_pacing=returned), "kcframe-x", "1")


def test_a_broken_plugin_is_a_warning_and_named_when_it_is_missed(monkeypatch):
    broken = EntryPoint("broken", "kcframe_no_such_module", "kcframe")
    monkeypatch.setattr(module, "entry_points", lambda group: [broken])
    with pytest.warns(UserWarning, match="'broken'.* does not load"):
        found = Registry.discover()
    with pytest.raises(
        PluginError, match=r"no pacing 'ideal' is installed.*the plugins of broken did not load"
    ):
        found.get("pacing", "ideal")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.get("pacing", "none")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(PluginError, match="did you mean 'self-paced'"):
        Registry.discover().get("pacing", "selfpaced")
