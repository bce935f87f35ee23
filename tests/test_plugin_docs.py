"""plugins/README.md tells of every hook, and of every distribution that is here."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from kcframe.interfaces import hookspecs
from kcframe.registry import BASES, PIN

FOLDER = Path(__file__).parents[1] / "plugins"
TEXT = (FOLDER / "README.md").read_text()
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("kcframe_")}


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_heading_with_its_signature_and_its_base_class(name):
    assert inspect.getdoc(HOOKS[name])
    section = TEXT.partition(f"\n### {name}{inspect.signature(HOOKS[name])}\n")[2].partition("\n#")[0]
    assert BASES[name.removeprefix("kcframe_")].replace(":", ".") in section


def test_no_heading_tells_of_a_hook_that_is_not_there():
    assert set(re.findall(r"^### (\w+)\(", TEXT, re.MULTILINE)) == set(HOOKS)


def test_every_distribution_is_listed_and_tested():
    folders = {path.parent.name for path in FOLDER.glob("*/pyproject.toml")}
    assert set(re.findall(r"^\| \[(\S+)\]\(\1\)", TEXT, re.MULTILINE)) == folders
    wanted = (FOLDER.parent / "tests/requirements.txt").read_text()
    for folder in folders:
        assert f"./plugins/{folder}[test]" in wanted
        assert list((FOLDER / folder / "tests").glob("test_*.py"))


def test_the_variable_that_pins_distributions_is_named():
    assert f"`{PIN}=" in TEXT
