"""What the READMEs say of plugins and recipes is what the code does: references, examples, commands."""

from __future__ import annotations

import inspect
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kcframe.cli.main import cli
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import PluginRef, Recipe
from kcframe.registry import BASES, PIN, Registry, installed
from tests.plugin_reference import HOOKS, reference, section_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "plugins"
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
RECIPES_TEXT = (ROOT / "recipes/README.md").read_text(encoding="utf-8")
RECIPE_REFERENCE = RECIPES_TEXT.partition("\n## Recipe reference\n")[2].partition("\n## ")[0]
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "recipes/README.md",
        "plugins/README.md",
        "cluster/README.md",
        "kcframe/README.md",
    )
}

# Examples that name only what they are about are laid over this.
AROUND = """\
kcframe: 1
name: around
data: synthetic
specialists:
  backbone: small-cnn
  train: {epochs: 1, batch_size: 8, learning_rate: 0.01}
student:
  backbone: small-cnn
  expander: {name: fc-sc, options: {s1: 32, s2: 16}}
  objective: top-k-bce
  train: {epochs: 1, batch_size: 8, learning_rate: 0.01}
arms:
  full: {pacing: self-paced}
"""


def examples(*languages: str) -> list[tuple[str, str]]:
    """(page and number, text) of each fenced example in one of the languages."""
    found = []
    for page, whole in PAGES.items():
        fenced = re.findall(r"^```(\w*)\n(.*?)^```$", whole, re.MULTILINE | re.DOTALL)
        texts = [text for language, text in fenced if language in languages]
        found += [(f"{page}-{number}", text) for number, text in enumerate(texts, 1)]
    return found


# -- hooks and distributions ------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_heading_with_its_signature_and_its_base_class(name):
    assert inspect.getdoc(HOOKS[name])
    section = TEXT.partition(f"\n### {name}{inspect.signature(HOOKS[name])}\n")[2].partition("\n#")[0]
    assert BASES[name.removeprefix("kcframe_")].replace(":", ".") in section


def test_no_heading_tells_of_a_hook_that_is_not_there():
    assert set(re.findall(r"^### (\w+)\(", TEXT, re.MULTILINE)) == set(HOOKS)


def test_the_reference_is_what_the_code_says():
    assert section_of(TEXT) == reference(), "run python -m tests.plugin_reference"


def test_every_distribution_is_listed_and_tested():
    folders = {path.parent.name for path in FOLDER.glob("*/pyproject.toml")}
    assert set(re.findall(r"^\| \[(\S+)\]\(\1\)", TEXT, re.MULTILINE)) == folders
    wanted = (FOLDER.parent / "tests/requirements.txt").read_text()
    for folder in folders:
        assert f"./plugins/{folder}[test]" in wanted
        assert list((FOLDER / folder / "tests").glob("test_*.py"))


def test_the_variable_that_pins_distributions_is_named():
    assert f"`{PIN}=" in TEXT


def test_the_plugin_in_one_file_is_loaded_and_validates_its_options(tmp_path):
    (code,) = re.findall(r"^```python\n(import torch\n.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (tmp_path / "warm.py").write_text(code)
    (tmp_path / "recipe.yaml").write_text(AROUND.replace("self-paced", "{name: warm, options: {steps: 5}}"))
    registry = Registry.discover()
    registry.add_file(str(tmp_path / "warm.py"))
    recipe = load_recipe(str(tmp_path / "recipe.yaml"), registry)
    assert recipe.arms["full"].pacing.options == {"steps": 5}
    component = registry.get("pacing", "warm")
    warm = component.load()(component.options(steps=5), (3, 2), 5)
    assert warm.weights(type("Progress", (), {"step": 1})).tolist() == pytest.approx([0.2, 0.2])


# -- recipes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "text"), examples("yaml"))
def test_every_recipe_in_a_readme_loads(page, text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(AROUND)
    whole = "kcframe:" in text or "include:" in text
    (tmp_path / "example.yaml").write_text(text if whole else f"include: recipe.yaml\n{text}")
    load_recipe(str(tmp_path / "example.yaml"), installed())


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section of a recipe and all those in it."""
    yield model
    for field in model.model_fields.values():
        for kind in _models(field.annotation):
            if kind is not PluginRef:
                yield from sections(kind)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for each in typing.get_args(annotation):
        yield from _models(each)


def default_of(field: FieldInfo) -> str:
    """As the reference writes it: a part whose fields all have defaults is {}, a plugin its name."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, PluginRef):
        return value.name
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(default_of(FieldInfo(default=each)) for each in value)}]"
    return "empty" if value == "" else yaml.safe_dump(value).removesuffix("...\n").strip().strip("'")


def test_the_recipe_reference_has_every_field_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| ?`?(.*?)`? ?\| ", RECIPE_REFERENCE, re.MULTILINE)
    fields = [
        (name, default_of(field))
        for section in dict.fromkeys(sections(Recipe))
        for name, field in section.model_fields.items()
    ]
    assert sorted(rows) == sorted([*fields, ("student", ""), ("include", "")])


def test_every_built_in_plugin_is_listed():
    table = RECIPE_REFERENCE.partition("### Built-in plugins")[2]
    listed, kind = set(), ""
    for new, name in re.findall(r"^\| (\w*) *\| `([\w-]+)` \|", table, re.MULTILINE):
        kind = new or kind
        listed.add((kind, name))
    found = {key for key, each in installed().components.items() if each.distribution == "kcframe"}
    assert listed == found


# -- commands ---------------------------------------------------------------------------------------


def typed() -> Iterator[tuple[str, str]]:
    """(page and number of the example, command line) of the kcframe commands in all examples."""
    for page, text in examples("bash", ""):
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&& |; (?:do )?|\$ |timeout \d+ ", line.partition("  #")[0]):
                if part.startswith("kcframe "):
                    yield page, part.strip()


@pytest.mark.parametrize(("page", "line"), list(typed()))
def test_every_command_in_a_readme_has_its_options(page, line):
    _, *words = shlex.split(line)
    command: click.Command = cli
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(click.Context(command), words)
    options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert set(given) <= options


def test_the_table_of_commands_has_every_command():
    table = RECIPES_TEXT.partition("\n## Commands\n")[2].partition("\n## ")[0]
    named = {name for names in re.findall(r"`kcframe ([\w\\|-]+)", table) for name in names.split("\\|")}
    assert named == set(cli.list_commands(click.Context(cli)))
