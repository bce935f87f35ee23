"""`kcframe check-plugin`: run the test suite of a plugin's kind on the plugin, without pytest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import yaml
from pydantic import ValidationError

from kcframe.cli.options import PLUGIN
from kcframe.errors import PluginError, did_you_mean
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import Recipe
from kcframe.registry import KINDS, Component, installed

MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


@click.command("check-plugin")
@click.argument("name", metavar="NAME")
@click.option("--kind", metavar="KIND", help="Where several plugins have the name; or write KIND/NAME.")
@click.option("--options", metavar="YAML", help="As a recipe would give them, e.g. '{rate: 0.5}'.")
@click.option("--recipe", metavar="RECIPE", help="Options from there, and the data that teachers know.")
@PLUGIN
def command(name: str, kind: str | None, options: str | None, recipe: str | None) -> None:
    """Put a plugin to the checks of its kind: shapes, gradients, saved state, whole tiny runs."""
    check_plugin(name, kind, options, recipe)


def check_plugin(name: str, kind: str | None, options: str | None, recipe: str | None = None) -> None:
    """Print a line for each check of a plugin. Raises PluginError at the end if one of them failed.

    name: as registered, or KIND/NAME. kind: needed if several plugins have the name. options: YAML, as in a
    recipe. recipe: a file that gives the options if `options` is None, and the data that a teacher or a
    backbone must fit.
    """
    component = find_plugin(name, kind)
    loaded = load_recipe(recipe, installed()) if recipe else None
    given = _checked_options(component, options, loaded)
    # torch is imported only now, so that a misspelt name is answered at once.
    from kcframe.testing import SUITES
    from kcframe.testing.checks import run_checks

    fitting = _fitting(component.kind, loaded) if loaded else {}
    suite = type("Suite", (SUITES[component.kind],), {"name": component.name, "options": given, **fitting})
    click.echo(f"{component} ({component.where})")
    counts = dict.fromkeys(MARKS, 0)
    for check in run_checks(suite):
        counts[check.outcome] += 1
        click.echo(f"  {MARKS[check.outcome]:<8} {check.name}")
        for line in check.why.splitlines():
            click.echo(f"             {line}")
    total = sum(counts.values())
    if counts["failed"]:
        raise PluginError(f"{component}: {counts['failed']} of {total} checks failed")
    click.echo(
        f"{counts['passed']} checks passed" + (f", {counts['skipped']} skipped" * bool(counts["skipped"]))
    )


def find_plugin(name: str, kind: str | None) -> Component:
    """A plugin by NAME, KIND/NAME, or NAME and kind. PluginError, with the nearest name, if there is none."""
    registry = installed()
    before, slash, after = name.partition("/")
    if slash and kind is None:
        kind, name = before, after
    if kind is not None:
        if kind not in KINDS:
            raise PluginError(f"no kind of plugin '{kind}'; {did_you_mean(kind, KINDS)}")
        return registry.get(kind, name)
    kinds = [candidate for candidate in KINDS if (candidate, name) in registry.components]
    if len(kinds) > 1:
        choices = " or ".join(f"{candidate}/{name}" for candidate in kinds)
        raise PluginError(f"several plugins are called '{name}': say {choices}")
    if not kinds:
        hint = did_you_mean(name, {component.name for component in registry.components.values()})
        left_out = "".join(f"; the plugins of {d} are left out: {why}" for d, why in registry.broken.items())
        raise PluginError(
            f"no plugin '{name}' is installed; {hint}{left_out} (kcframe plugins lists them all)"
        )
    return registry.get(kinds[0], name)


def _fitting(kind: str, recipe: Recipe) -> dict[str, Any]:
    """The attributes of a suite that depend on the recipe's data."""
    if kind not in ("teacher", "backbone"):
        return {}
    from kcframe.assembly.source import build_source

    source = build_source(recipe)
    if kind == "backbone":
        return {"channels": (source.channels,), "image_sizes": (source.image_size,)}
    return {"taxonomy": source.taxonomy, "channels": source.channels, "image_size": source.image_size}


def _named_in(recipe: Recipe, kind: str, name: str) -> Mapping[str, Any]:
    """The options that a recipe gives a plugin where it names it first; empty if it does not name it."""
    refs = [recipe.data] if kind == "data" else list(recipe.callbacks) if kind == "callback" else []
    for arm in recipe.arms.values():
        refs += arm.teachers if kind == "teacher" else [getattr(arm, kind)] if hasattr(arm, kind) else []
    if kind == "backbone" and recipe.specialists is not None:
        refs.append(recipe.specialists.backbone)
    return next((ref.options for ref in refs if ref.name == name), {})


def _checked_options(component: Component, text: str | None, recipe: Recipe | None) -> Mapping[str, Any]:
    try:
        given = yaml.safe_load(text) if text else {}
        if text is None and recipe is not None:
            given = dict(_named_in(recipe, component.kind, component.name))
    except yaml.YAMLError as error:
        raise PluginError(f"--options '{text}': not YAML: {error}") from None
    if not isinstance(given, dict):
        raise PluginError(f"--options '{text}': write a mapping, e.g. '{{name: value}}'")
    try:
        component.options.model_validate(given)
    except ValidationError as error:
        raise PluginError("\n".join(_problems(component, error, given))) from None
    return given


def _problems(component: Component, error: ValidationError, given: Mapping[str, Any]) -> list[str]:
    fields = component.options.model_fields
    lines, missing = [], []
    for problem in error.errors():
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            about = fields[where].description if where in fields else None
            lines.append(f"option '{where}' is missing" + (f": {about}" if about else ""))
            missing.append(where)
        elif problem["type"] == "extra_forbidden":
            lines.append(f"no option '{where}'; {did_you_mean(where, fields)}")
        else:
            lines.append(f"option '{where}': {problem['msg']}, not {problem['input']!r}")
    example = ", ".join([*(f"{k}: {v}" for k, v in given.items()), *(f"{option}: …" for option in missing)])
    if missing:
        where = f"{component.kind}/{component.name}"
        lines.append(f"give them so: kcframe check-plugin {where} --options '{{{example}}}'")
        lines.append(f"or take them from a recipe: kcframe check-plugin {where} --recipe FILE")
    return [f"{component} cannot be built with these options:", *(f"  {line}" for line in lines)]
