"""Plugins come in through hooks; what is wrong with one is said in its name."""

from __future__ import annotations

import types
import warnings
from importlib.metadata import EntryPoint

import pytest

from kcframe import registry as module
from kcframe.errors import PluginError
from kcframe.interfaces.hooks import API, OLDEST_API, hookimpl
from kcframe.interfaces.pacing import Pacing
from kcframe.registry import KINDS, PluginWarning, Registry


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


def test_two_of_one_name_are_refused_where_it_is_asked_for_naming_both_distributions():
    found = Registry.discover()
    found.add(plugin("one", kcframe_pacing=[Warm]), "kcframe-one", "1.0")
    found.add(plugin("two", kcframe_pacing=[Warm]), "kcframe-two", "2.0")
    with pytest.raises(
        PluginError, match=r"pacing 'warm'.*kcframe-one 1\.0.*kcframe-two 2\.0.*KCFRAME_PLUGINS"
    ):
        found.get("pacing", "warm")
    assert found.options_schema("pacing", "warm") is None
    assert "kcframe-two 2.0" in found.advice("pacing", "warm")
    assert found.get("pacing", "none").name == "none"


def test_a_misspelt_hook_is_refused_with_the_nearest():
    found = Registry()
    with pytest.raises(PluginError, match=r"kcframe-x 1: .*kcframe_pacings.*did you mean 'kcframe_pacing'"):
        found.add(plugin(kcframe_pacings=[Warm]), "kcframe-x", "1")
    # Nothing of it is left behind to spoil the next one.
    found.add(plugin(kcframe_pacing=[Warm]), "kcframe-y", "1")


@pytest.mark.parametrize(
    ("api", "message"),
    [
        (API, None),
        (
            OLDEST_API - 1,
            r"kcframe-x 1: kcframe_pacing was written for plugin interfaces 0, .*newer kcframe-x",
        ),
        (API + 1, r"kcframe-x 1: kcframe_pacing needs plugin interfaces 2, this kcframe .*newer kcframe$"),
    ],
)
def test_a_plugin_for_other_interfaces_says_so(api, message):
    found = types.ModuleType("idea")
    found.kcframe_pacing = hookimpl(api=api)(lambda: [Warm])
    if message is None:
        Registry().add(found, "kcframe-x", "1")
        return
    with pytest.raises(PluginError, match=message):
        Registry().add(found, "kcframe-x", "1")


def test_a_variable_pins_what_loads(monkeypatch):
    class Distribution:
        def __init__(self, name):
            self.name, self.version = name, "1.0"

    entries = []
    for name in ("one", "two"):
        entry = EntryPoint(name, f"kcframe_no_such_{name}", "kcframe")
        vars(entry).update(dist=Distribution(f"kcframe-{name}"))
        entries.append(entry)
    monkeypatch.setattr(module, "entry_points", lambda group: entries)
    monkeypatch.setenv("KCFRAME_PLUGINS", "kcframe-two")
    with pytest.warns(PluginWarning, match="kcframe-two 1.0 is left out: ModuleNotFoundError"):
        assert list(Registry.discover().broken) == ["kcframe-two"]
    monkeypatch.setenv("KCFRAME_PLUGINS", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Registry.discover().broken == {}
    monkeypatch.setenv("KCFRAME_PLUGINS", "kcframe-twos, kcframe-one")
    with pytest.raises(PluginError, match=r"names 'kcframe-twos', which is not.*did you mean 'kcframe-two'"):
        Registry.discover()


IDEA = """
from kcframe.interfaces.hooks import hookimpl
from kcframe.interfaces.pacing import Pacing


class Idea(Pacing):
    \"\"\"An idea.\"\"\"

    name = "idea"


@hookimpl(api=1)
def kcframe_pacing():
    return [Idea]
"""


def test_a_file_is_a_plugin(tmp_path):
    (tmp_path / "idea.py").write_text(IDEA)
    found = Registry.discover()
    found.add_file(str(tmp_path / "idea.py"))
    component = found.get("pacing", "idea")
    assert (component.distribution, component.where) == ("idea.py", str(tmp_path / "idea.py"))
    before = found.versions()["idea.py"]
    (tmp_path / "idea.py").write_text(IDEA + "# changed\n")
    other = Registry.discover()
    other.add_file(str(tmp_path / "idea.py"))
    assert other.versions()["idea.py"] != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (IDEA.replace("Pacing)", "Pacings)"), r"idea.py:6: NameError: name 'Pacings' is not defined"),
        (IDEA.replace("class Idea(", "class Idea("[:-1]), r"idea.py:6: SyntaxError"),
        (IDEA.replace("@hookimpl(api=1)", ""), r"idea.py: no hook is in it"),
    ],
)
def test_a_file_that_is_no_plugin_is_answered_with_its_line(tmp_path, text, message):
    (tmp_path / "idea.py").write_text(text)
    with pytest.raises(PluginError, match=message):
        Registry().add_file(str(tmp_path / "idea.py"))
    with pytest.raises(PluginError, match=r"ideas.py: no such file; did you mean 'idea.py'"):
        Registry().add_file(str(tmp_path / "ideas.py"))


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
    with pytest.warns(UserWarning, match="'broken' of broken . is left out: ModuleNotFoundError"):
        found = Registry.discover()
    with pytest.raises(
        PluginError, match=r"no pacing 'ideal' is installed.*the plugins of broken are left out"
    ):
        found.get("pacing", "ideal")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.get("pacing", "none")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(PluginError, match="did you mean 'self-paced'"):
        Registry.discover().get("pacing", "selfpaced")
