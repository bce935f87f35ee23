"""`kcframe validate`; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kcframe.errors import RecipeError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed


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
