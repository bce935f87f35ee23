"""`kcframe plugins`: the installed plugins, and the options of one. This needs no torch."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import annotated_types
import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich import box
from rich.console import Console
from rich.table import Table

from kcframe.cli.options import PLUGIN
from kcframe.errors import PluginError, did_you_mean
from kcframe.registry import BASES, KINDS, Component, installed

WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null"}
BOUNDS = {
    annotated_types.Ge: ("ge", "at least {}"),
    annotated_types.Gt: ("gt", "more than {}"),
    annotated_types.Le: ("le", "at most {}"),
    annotated_types.Lt: ("lt", "less than {}"),
    annotated_types.MinLen: ("min_length", "at least {} long"),
    annotated_types.MaxLen: ("max_length", "at most {} long"),
}


@click.command("plugins")
@click.argument("kind", required=False)
@click.argument("name", required=False)
@PLUGIN
def command(kind: str | None, name: str | None) -> None:
    """List the installed plugins, or one plugin's options: kcframe plugins pacing self-paced."""
    registry = installed()
    if kind is not None and kind not in KINDS:
        owners = [k for k, known in registry.components if known == kind]
        hint = f"kcframe plugins {owners[0]} {kind}" if owners else did_you_mean(kind, KINDS)
        raise PluginError(f"no kind of plugin '{kind}'; {hint}")
    if kind is not None and name is not None:
        _show_one(registry.get(kind, name))
        return
    rows = sorted(registry.components.values(), key=lambda c: (KINDS.index(c.kind), c.name))
    _show_list([c for c in rows if kind in (None, c.kind)])
    for distribution, why in registry.broken.items():
        click.echo(f"left out: {distribution}: {why}", err=True)
    for conflict in registry.conflicts.values():
        click.echo(f"left out: {conflict}", err=True)


def _show_list(components: Sequence[Component]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("kind", "name", "what it is", "distribution"):
        table.add_column(column, overflow="fold", no_wrap=column in ("kind", "name"))
    for c in components:
        table.add_row(c.kind, c.name, c.summary, f"{c.distribution} {c.version}")
    console = Console()
    if not console.is_terminal:
        console.width = 160  # one line per plugin, for grep
    console.print(table)
    click.echo("options of one: kcframe plugins KIND NAME")


def _show_one(component: Component) -> None:
    click.echo(f"{component.kind} {component.name}: {component.summary}")
    click.echo(f"from {component.distribution} {component.version} ({component.where})")
    click.echo(f"interface: {BASES[component.kind].replace(':', '.')}\n")
    for line in _option_lines(component.options, "  "):
        click.echo(line)
    if not component.options.model_fields:
        click.echo("  no options")


def _option_lines(options: type[BaseModel], indent: str) -> Iterator[str]:
    for name, field in options.model_fields.items():
        default = "required" if field.is_required() else f"default {_plain(_default(field))}"
        limits = ", ".join(_limits(field.metadata))
        yield f"{indent}{name}: {in_words(field.annotation)}{f', {limits}' if limits else ''}; {default}"
        if field.description:
            yield f"{indent}    {field.description}"
        for model in _models_in(field.annotation):
            yield from _option_lines(model, indent + "    ")


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def in_words(annotation: Any) -> str:
    """A field's type in the words of a recipe's author: 'paper | base-rate', 'list of text'."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(str(_plain(value)) for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(in_words(choice) for choice in inner)
    if origin is typing.Annotated:
        limits = ", ".join(_limits(inner[1:]))
        return in_words(inner[0]) + (f" ({limits})" if limits else "")
    if origin in (tuple, list):
        return f"list of {in_words(inner[0])}"
    if origin is dict:
        return f"mapping of {in_words(inner[0])} to {in_words(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "the fields below"
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(metadata: Sequence[Any]) -> list[str]:
    limits = []
    for item in metadata:
        for kind, (attribute, words) in BOUNDS.items():
            if isinstance(item, kind):
                bound = getattr(item, attribute)
                limits.append(words.format(int(bound) if bound == int(bound) else bound))
        if isinstance(item, FieldInfo):
            limits += _limits(item.metadata)
    return limits


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]


def _plain(value: object) -> object:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return list(value) if isinstance(value, tuple) else value
