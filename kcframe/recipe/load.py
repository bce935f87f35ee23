"""Loads a recipe file into a checked `Recipe`. Reports all problems together, each with file and line."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from kcframe.errors import RecipeError, did_you_mean
from kcframe.recipe.document import (
    PLUGIN_KEYS,
    PLUGIN_LISTS,
    Document,
    Keys,
    KnownOptions,
    dotted,
    overlay,
    parse_overrides,
    read_document,
)
from kcframe.recipe.schema import Recipe, Search, StudentSpec
from kcframe.recipe.search import searched_arm, with_values

# Defaults of an arm. They are written into the tree so that their options get defaults, too: then the
# recipe.yaml of a run gives the same recipe again.
DEFAULTS = {
    "pacing": StudentSpec.model_fields["pacing"].default.name,
    "teachers": [ref.name for ref in StudentSpec.model_fields["teachers"].default],
}


Place = Callable[[Keys], tuple[str, str]]
"""A path -> (where it was written, 'file:line', and the path to show)."""


class Catalog(Protocol):
    """The facts about installed plugins that the check of a recipe needs."""

    def names(self, kind: str) -> Iterable[str]:
        """Every registered name of a kind."""

    def options_schema(self, kind: str, name: str) -> type[BaseModel] | None:
        """A plugin's options; None if there is no such plugin."""

    def advice(self, kind: str, name: str) -> str:
        """The error message for a name that is not registered."""


def load_recipe(source: str, catalog: Catalog, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, overlays and checks a recipe. Raises RecipeError with all problems.

    source: path or fsspec URL. overrides: `path=value` strings, applied last. In the result every arm is
    complete, and every option has a value.
    """

    def known_options(kind: str, name: str) -> set[str] | None:
        schema = catalog.options_schema(kind, name)
        return set(schema.model_fields) if schema else None

    document = overlay(read_document(source), parse_overrides(overrides), known_options)
    checker = _Checker(catalog, known_options)
    recipe = checker.check(document)
    if recipe is None or checker.problems:
        raise RecipeError(dict.fromkeys(checker.problems))
    return recipe


class _Checker:
    def __init__(self, catalog: Catalog, known_options: KnownOptions):
        self.catalog, self.known_options = catalog, known_options
        self.problems: list[str] = []

    def check(self, document: Document) -> Recipe | None:
        tree = dict(document.tree)
        student = document.at(("student",))
        arms = tree.get("arms")
        tree.pop("student", None)
        if not isinstance(student.tree, dict):
            self.say(document, ("student",), "should be a mapping of fields")
            student = Document()
        if isinstance(arms, dict):
            tree["arms"] = {name: self.arm(document, student, name) for name in arms}
        recipe: Recipe | None = self.validate(
            Recipe, tree, lambda path: _place(document, path), extra=("student", "include")
        )
        self.cross_check(document, tree)
        if recipe is not None and recipe.search is not None and not self.problems:
            self.check_search(document, recipe, recipe.search)
        return recipe

    def check_search(self, document: Document, recipe: Recipe, search: Search) -> None:
        arm = searched_arm(recipe)
        if arm not in recipe.arms:
            self.say(document, ("search", "arm"), f"no arm '{arm}'; {did_you_mean(arm, recipe.arms)}")
            return
        for path, distribution in search.fields.items():
            for value in distribution.examples():
                try:
                    with_values(recipe.arms[arm], {path: value}, self.catalog.options_schema)
                except ValueError as error:
                    self.say(document, ("search", "fields", path), f"arm '{arm}': {error}")
                    break

    def arm(self, document: Document, student: Document, name: str) -> Any:
        """An arm's tree: the arm overlaid on the student section."""
        section = document.at(("arms", name))
        if section.tree is None:
            section = Document({}, section.origins)
        if not isinstance(section.tree, dict):
            return section.tree
        return {**DEFAULTS, **overlay(student, section, self.known_options).tree}

    def validate(self, model: type[BaseModel], tree: Any, place: Place, extra: Sequence[str] = ()) -> Any:
        """Checks a tree against a model, and its plugins' options against their models; fills in defaults."""
        if isinstance(tree, dict):
            self.plugins(tree, (), place)
        try:
            return model.model_validate(tree)
        except ValidationError as error:
            for problem in error.errors():
                self.problems.append(_sentence(model, problem, place, extra))
        return None

    def plugins(self, tree: dict[str, Any], path: Keys, place: Place) -> None:
        """Checks all plugin references below `tree` and completes them in place."""
        for key, value in list(tree.items()):
            here = (*path, key)
            if key == "options":
                continue
            if key in PLUGIN_KEYS and value is not None:
                tree[key] = self.plugin(PLUGIN_KEYS[key], value, here, place)
            elif key in PLUGIN_LISTS and isinstance(value, list):
                kind = PLUGIN_LISTS[key]
                tree[key] = [self.plugin(kind, v, (*here, n), place) for n, v in enumerate(value)]
            elif isinstance(value, dict):
                tree[key] = value = dict(value)
                self.plugins(value, here, place)

    def plugin(self, kind: str, value: Any, path: Keys, place: Place) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return value  # the check against the schema reports it
        name, options = value["name"], value.get("options")
        line, shown = place(path)
        if "line" in value:
            where = place((*path, "line"))[0]
            self.problems.append(f"{where}: {shown}.line: unknown field; known: name, options")
        value = {**value, "line": f"{line}: {shown}"}
        schema = self.catalog.options_schema(kind, name)
        if schema is None:
            where, shown = place((*path, "name"))
            self.problems.append(f"{where}: {shown}: {self.catalog.advice(kind, name)}")
            return value
        options = {} if options is None else options
        if not isinstance(options, dict):
            return value
        try:
            checked = schema.model_validate(options)
        except ValidationError as error:
            for problem in error.errors():
                problem["loc"] = ("options", *problem["loc"])
                self.problems.append(
                    _sentence(
                        schema, problem, lambda tail: place((*path, *tail)), skip=1, owner=f"{kind} '{name}'"
                    )
                )
            return value
        return {**value, "options": checked.model_dump(mode="json")}

    def cross_check(self, document: Document, tree: dict[str, Any]) -> None:
        arms, baseline = tree.get("arms"), tree.get("baseline")
        if not isinstance(arms, dict):
            return
        if isinstance(baseline, str) and baseline not in arms:
            self.say(document, ("baseline",), f"no arm '{baseline}'; {did_you_mean(baseline, arms)}")

    def say(self, document: Document, path: Keys, what: str) -> None:
        self.problems.append(f"{document.origin(path)}: {dotted(path)}: {what}")


def _place(document: Document, path: Keys) -> tuple[str, str]:
    """(file:line, path) to show in an error. A value that an arm inherits is shown in the student section."""
    if path[:1] == ("arms",) and len(path) > 2 and path not in document.origins:
        inherited = ("student", *path[2:])
        parent = ("student", *path[2:-1])
        own_parent = path[:-1] in document.origins and len(path) > 3
        if inherited in document.origins or (parent in document.origins and not own_parent):
            return document.origin(inherited), dotted(inherited)
    return document.origin(path), dotted(path)


def _sentence(
    model: type[BaseModel],
    problem: Any,
    place: Place,
    extra: Sequence[str] = (),
    *,
    skip: int = 0,
    owner: str = "",
) -> str:
    """One pydantic error as a line for people.

    place: path -> (file:line, path to show). extra: field names that are valid besides the model's. skip:
    number of leading keys of the path that are outside of the model. owner: the plugin whose options these
    are.
    """
    loc: Keys = tuple(part for part in problem["loc"] if part != "[key]")
    where, shown = place(loc)
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        fields = [*_fields_at(model, loc[skip:-1]), *(extra if len(loc) == 1 else ())]
        what = f"unknown {'option' if owner else 'field'}{f' of {owner}' if owner else ''}; "
        return f"{where}: {shown}: {what}{did_you_mean(str(loc[-1]), fields)}"
    if kind == "missing":
        about = _describe(model, loc[skip:])
        return f"{where}: {shown}: is missing{f' ({about})' if about else ''}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        message = "should be a mapping of fields"
    if kind == "literal_error" and isinstance(value, str):
        expected = [word.strip("' ") for word in problem["ctx"]["expected"].replace(" or ", ",").split(",")]
        message += f"; {did_you_mean(value, expected)}" if len(expected) > 1 else ""
    got = "" if isinstance(value, (dict, list, BaseModel)) else f", not {value!r}"
    return f"{where}: {shown}: {message}{got}"


def _model_at(model: Any, loc: Keys) -> type[BaseModel] | None:
    """The pydantic model of the value at a path, or None."""
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        else:
            arguments = [a for a in typing.get_args(current) if a not in (type(None), Ellipsis)]
            origin = typing.get_origin(current)
            current = arguments[-1] if origin in (dict, tuple, list) and arguments else None
        while typing.get_origin(current) in (typing.Union, types.UnionType):
            current = next(
                (a for a in typing.get_args(current) if isinstance(a, type) and issubclass(a, BaseModel)),
                next(
                    (a for a in typing.get_args(current) if typing.get_origin(a) in (dict, tuple, list)), None
                ),
            )
        while typing.get_origin(current) is typing.Annotated:
            current = typing.get_args(current)[0]
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _fields_at(model: type[BaseModel], loc: Keys) -> list[str]:
    described = _model_at(model, loc)
    return [name for name, field in described.model_fields.items() if not field.exclude] if described else []


def _describe(model: type[BaseModel], loc: Keys) -> str:
    parent = _model_at(model, loc[:-1])
    field = parent.model_fields.get(str(loc[-1])) if parent and loc else None
    return (field.description or "") if field else ""
