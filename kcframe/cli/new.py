"""`kcframe new`: write a small plugin that works. Its files come from templates in `kcframe/scaffold/`."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from kcframe.errors import PluginError, did_you_mean
from kcframe.interfaces.hooks import API
from kcframe.registry import BASES, KINDS, installed

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 28  # characters of a name, so that no line of the files becomes too long


@click.command("new")
@click.argument("kind", metavar="KIND")
@click.argument("name", metavar="NAME")
@click.option("--folder", metavar="DIR", default=".", help="Where its folder is put. Default: here.")
def command(kind: str, name: str, folder: str) -> None:
    """Write a new plugin that works: a folder with a class, a README and tests."""
    new_plugin(kind, name, folder)


def new_plugin(kind: str, name: str, folder: str) -> None:
    """Write folder/kcframe-KIND-NAME and print what to do with it.

    Raises PluginError if the kind does not exist, the name is invalid or taken, or the folder exists.
    """
    _refuse(kind, name)
    target = Path(folder).expanduser() / f"kcframe-{kind}-{name}"
    if target.exists():
        raise PluginError(f"{target} is there already: delete it, choose another name, or another --folder")
    written = plugin_files(kind, name)
    for path, text in written.items():
        file = target / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise PluginError(f"{file} cannot be written: {error.strerror}") from None
    for path in written:
        click.echo(f"wrote {target / path}")
    click.echo(
        f"\nnext:\n  pip install -e {target}\n  pytest {target}\n  kcframe check-plugin {kind}/{name}\n"
        f"  kcframe plugins {kind} {name}\nand in a recipe (more in {target / 'README.md'}):"
    )
    for line in _fill(f"{kind}/recipe", name=name).splitlines():
        click.echo(f"  {line}")


def plugin_files(kind: str, name: str) -> dict[str, str]:
    """The files of a new plugin: path -> text."""
    package = f"kcframe_{kind}_{name.replace('-', '_')}"
    # The class ends with the kind, so that it never has the name of its base class.
    camel = "".join(word.capitalize() for word in name.split("-"))
    class_name = camel + kind.capitalize()
    values = {
        "kind": kind,
        "name": name,
        "distribution": f"kcframe-{kind}-{name}",
        "package": package,
        "module": _module(kind),
        "class_name": class_name,
        "options": f"{camel}Options",
        "suite": f"{kind.capitalize()}Suite",
        "api": str(API),
        "summary": _fill(f"{kind}/summary").strip(),
        "recipe": _fill(f"{kind}/recipe", name=name).strip(),
    }
    return {
        "pyproject.toml": _fill("all/pyproject.toml", **values),
        "README.md": _fill("all/README.md", **values),
        f"{package}/__init__.py": _fill(f"{kind}/init.py", **values),
        f"{package}/{_module(kind)}.py": _fill(f"{kind}/module.py", **values),
        f"tests/test_{package}.py": _fill("all/test.py", **values),
    }


def _module(kind: str) -> str:
    """The name of the class's module: that of kcframe's base class of this kind."""
    return BASES[kind].partition(":")[0].rpartition(".")[2]


def _fill(template: str, **values: str) -> str:
    text = files("kcframe").joinpath("scaffold", f"{template}.template").read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _refuse(kind: str, name: str) -> None:
    if kind not in KINDS:
        raise PluginError(f"no kind of plugin '{kind}'; {did_you_mean(kind, KINDS)}")
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:LONGEST].strip("-")
        hint = f", e.g. '{better}'" if better else ", e.g. 'catch-up'"
        raise PluginError(
            f"'{name}' cannot be a plugin's name: small letters, digits and single hyphens, a letter first, "
            f"at most {LONGEST} characters{hint}"
        )
    if name == "plugin":
        raise PluginError("'plugin' says nothing of what it does, and PluginOptions is taken: another name")
    taken = installed().components.get((kind, name))
    if taken is not None:
        raise PluginError(f"{taken} is installed already: choose another name, or change that one")
