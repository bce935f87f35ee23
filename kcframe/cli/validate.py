"""`kcframe validate`: check recipes. This needs no torch."""

from __future__ import annotations

import click

from kcframe.cli.options import PLUGIN, SET
from kcframe.errors import RecipeError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed


@click.command("validate")
@click.argument("recipes", metavar="RECIPE…", nargs=-1, required=True)
@SET
@PLUGIN
def command(recipes: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Check recipes: all errors at once, each with its place and the nearest valid name."""
    problems: list[str] = []
    for source in recipes:
        try:
            recipe = load_recipe(source, installed(), overrides)
            click.echo(f"{source}: valid ({len(recipe.arms)} arms)")
        except RecipeError as error:
            problems += error.problems
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise RecipeError([f"{count} found", *problems])
