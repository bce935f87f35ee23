"""`kcframe validate` and `kcframe plugins`: neither imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kcframe.errors import PluginError, RecipeError, did_you_mean
from kcframe.recipe.load import load_recipe
from kcframe.registry import KINDS, Component, installed


def validate_recipes(sources: Sequence[str], overrides: Sequence[str]) -> None:
    """Check every recipe; all of them are read before the first problem ends the command."""
    problems: list[str] = []
    for source in sources:
        try:
            recipe = load_recipe(source, installed(), overrides)
            click.echo(f"{source}: valid ({len(recipe.arms)} arms)")
        except RecipeError as error:
            problems += error.problems
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise RecipeError([f"{count} found", *problems])


def show_plugins(kind: str | None, name: str | None) -> None:
    """All plugins, one kind's, or one plugin's options."""
    registry = installed()
    if kind is not None and kind not in KINDS:
        raise PluginError(f"no kind of plugin '{kind}'; {did_you_mean(kind, KINDS)}")
    if kind is not None and name is not None:
        _show_options(registry.get(kind, name))
        return
    rows = sorted(registry.components.values(), key=lambda c: (KINDS.index(c.kind), c.name))
    rows = [c for c in rows if kind in (None, c.kind)]
    width = max(len(c.name) for c in rows) if rows else 0
    for c in rows:
        click.echo(f"{c.kind:<10} {c.name:<{width}}  {c.summary}  ({c.distribution} {c.version})")


def _show_options(component: Component) -> None:
    click.echo(f"{component.kind} {component.name}: {component.summary}")
    click.echo(f"from {component.distribution} {component.version}\n")
    properties = component.options.model_json_schema().get("properties", {})
    if not properties:
        click.echo("no options")
    for name, field in component.options.model_fields.items():
        default = (
            "required"
            if field.is_required()
            else f"default {_plain(field.get_default(call_default_factory=True))}"
        )
        kind = str(field.annotation).replace("typing.", "").removeprefix("<class '").removesuffix("'>")
        bounds = ", ".join(str(m) for m in field.metadata)
        click.echo(f"  {name}: {kind}{f' ({bounds})' if bounds else ''}, {default}")
        if field.description:
            click.echo(f"      {field.description}")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
