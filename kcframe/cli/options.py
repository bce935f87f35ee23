"""Options that several commands share. This file imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _load_plugins(context: click.Context, parameter: click.Parameter, files: tuple[str, ...]) -> None:
    from kcframe.registry import installed

    for file in files:
        installed().add_file(file)


RECIPE = click.argument("recipe", metavar="RECIPE")
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a value of the recipe, e.g. --set student.expander.options.s2=64. May be repeated.",
)
PLUGIN = click.option(
    "--plugin",
    multiple=True,
    metavar="FILE",
    expose_value=False,
    is_eager=True,
    callback=_load_plugins,
    help="Load a plugin from a Python file, to try an idea before packaging it. May be repeated.",
)
BACKEND = click.option("--backend", metavar="NAME", help="local, or ray: short for --set execution.backend=…")
ADDRESS = click.option("--address", metavar="ADDRESS", help="The Ray cluster's; with it the backend is ray.")
STUDENT = click.argument("run", metavar="RUN[:ARM]")
JSON = click.option("--json", "json_file", metavar="FILE", help="Write the figures there.")
DEVICE = click.option(
    "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"])
)
DTYPE = click.option(
    "--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"])
)


def count_option(name: str, default: int, help: str) -> Decorator:
    """An option whose value is a whole number of at least 1."""
    return click.option(name, default=default, show_default=True, type=click.IntRange(1), help=help)


def batch_option(default: int) -> Decorator:
    """--batch, for commands that ask a student."""
    return count_option("--batch", default, "Pictures at a time.")


ROUNDS = count_option("--rounds", 3, "Turns of each way.")


def whole_numbers(text: str, option: str, example: str, least: int = 1) -> list[int]:
    """The whole numbers in '1,5,20'. BadParameter, with the example, if one is no number or below `least`."""
    try:
        values = [int(number) for number in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < least:
        hint = f"'{text}': write numbers of {least} or more, e.g. {example}"
        raise click.BadParameter(hint, param_hint=option)
    return values
