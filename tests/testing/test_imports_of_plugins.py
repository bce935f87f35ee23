"""A plugin and its tests import only what `plugins/README.md` promises to authors, who copy them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kcframe import testing

PLUGINS = Path(__file__).parents[2] / "plugins"
FOR_CODE = ("kcframe.interfaces", "kcframe.pictures", "kcframe.taxonomy", "kcframe.errors")
FOR_TESTS = ("kcframe.interfaces", "kcframe.taxonomy", "kcframe.errors")


@dataclass(frozen=True)
class Import:
    """`from module import name`, or `import module` where name is None."""

    module: str
    name: str | None
    line: int

    def __str__(self) -> str:
        return f"line {self.line}: " + (
            f"import {self.module}" if self.name is None else f"from {self.module} import {self.name}"
        )


def imports_in(code: str) -> Iterator[Import]:
    """All imports of a module, but for relative ones."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                yield Import(node.module, alias.name, node.lineno)


def is_below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def allowed_in_code(imported: Import, package: str) -> bool:
    if imported.module == "kcframe" and imported.name is not None:
        return f"kcframe.{imported.name}" in FOR_CODE
    return is_below(imported.module, (*FOR_CODE, package))


def allowed_in_tests(imported: Import, package: str) -> bool:
    if imported.module == "kcframe.testing":
        return imported.name in testing.__all__
    if imported.module == "kcframe" and imported.name is not None:
        return f"kcframe.{imported.name}" in FOR_TESTS
    return is_below(imported.module, (*FOR_TESTS, package))


def refused(file: Path, package: str, allowed) -> list[str]:
    """The imports of kcframe, or of another plugin, that are not allowed."""
    return [
        str(imported)
        for imported in imports_in(file.read_text())
        if imported.module.split(".")[0].startswith("kcframe") and not allowed(imported, package)
    ]


def files(pattern: str) -> list:
    """(file, its plugin's package) for each file of a plugin that fits the pattern."""
    found = [
        pytest.param(
            file, file.relative_to(PLUGINS).parts[0].replace("-", "_"), id=str(file.relative_to(PLUGINS))
        )
        for file in sorted(PLUGINS.glob(pattern))
    ]
    assert found, pattern
    return found


@pytest.mark.parametrize(("file", "package"), files("*/kcframe_*/**/*.py"))
def test_a_plugin_imports_the_interfaces_alone(file, package):
    assert refused(file, package, allowed_in_code) == []


@pytest.mark.parametrize(("file", "package"), files("*/tests/**/*.py"))
def test_the_tests_of_a_plugin_import_public_names_alone(file, package):
    assert refused(file, package, allowed_in_tests) == []


@pytest.mark.parametrize(
    ("code", "in_code", "in_tests"),
    [
        pytest.param("import torch", True, True, id="another library"),
        pytest.param("from kcframe_mine.options import Options", True, True, id="the plugin itself"),
        pytest.param("from kcframe_other import Options", False, False, id="another plugin"),
        pytest.param("from kcframe.interfaces.pacing import Pacing", True, True, id="an interface"),
        pytest.param("from kcframe import taxonomy", True, True, id="the taxonomy"),
        pytest.param("from kcframe.pictures.folders import scan", True, False, id="pictures"),
        pytest.param("from kcframe.testing import run_recipe", False, True, id="a public helper"),
        pytest.param("from kcframe.testing import tiny", False, False, id="a module of helpers"),
        pytest.param("from kcframe.testing.runs import run_recipe", False, False, id="a helper's module"),
        pytest.param(
            "def f():\n    import kcframe.engine.loss", False, False, id="the engine, in a function"
        ),
        pytest.param("from kcframe import engine", False, False, id="the engine, by its parent"),
    ],
)
def test_an_import_is_judged_by_its_module_and_name(code, in_code, in_tests, tmp_path):
    file = tmp_path / "module.py"
    file.write_text(code)
    assert (refused(file, "kcframe_mine", allowed_in_code) == []) == in_code
    assert (refused(file, "kcframe_mine", allowed_in_tests) == []) == in_tests
