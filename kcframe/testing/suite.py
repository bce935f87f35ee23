"""What every plugin is checked for, whatever its kind: its name, its options, and that it can be built."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from kcframe.assembly.plugins import construct
from kcframe.interfaces.options import PluginOptions
from kcframe.recipe.schema import PluginRef
from kcframe.registry import Component, installed
from kcframe.testing.expect import expect, expect_same, fail

HUGE = 10**15
NONSENSE = "no-such-option"


class PluginSuite:
    """Subclass the suite of your plugin's kind and give it a `name`.

    Options that need files are best made in a fixture, which may set `self.options`:

        @pytest.fixture(autouse=True)
        def _files(self, tmp_path):
            self.options = {"path": str(write_model(tmp_path))}
    """

    kind: ClassVar[str]
    name: str
    """As the plugin is registered: its distribution is installed, or loaded with --plugin."""

    options: Mapping[str, Any] = {}
    """As a recipe would give them."""

    any_number: tuple[str, ...] = ()
    """Options that may be any number, so that no bounds are asked of them."""

    seed = 0

    # -- building ----------------------------------------------------------------------------------

    @property
    def component(self) -> Component:
        """What the registry knows of the plugin."""
        return installed().get(self.kind, self.name)

    @property
    def ref(self) -> PluginRef:
        """The plugin as a resolved recipe names it: with all its options, as plain values."""
        checked = self.component.options.model_validate(dict(self.options))
        return PluginRef(name=self.name, options=checked.model_dump(mode="json"))

    def construct(self, *arguments: Any, seed: int | None = None) -> Any:
        """Build the plugin as a run does, under a seed."""
        torch.manual_seed(self.seed if seed is None else seed)
        return construct(self.kind, self.ref, *arguments)

    # -- checks ------------------------------------------------------------------------------------

    def test_it_is_registered_by_its_name(self):
        component = self.component
        plugin = component.load()
        expect(plugin.name == self.name, f"the class calls itself '{plugin.name}', the hook '{self.name}'")
        expect(
            plugin.Options is component.options,
            f"the class's Options are {plugin.Options.__name__}, the hook's {component.options.__name__}",
        )
        expect(
            bool(component.summary),
            f"`kcframe plugins` has nothing to show for it: give {plugin.__name__} a docstring",
        )

    def test_every_option_is_described(self):
        for where, field in _fields(self.component.options):
            expect(
                bool(field.description),
                f"option '{where}' has no description: give it Field(description=…), for `kcframe plugins`",
            )

    def test_numbers_have_bounds(self):
        schema = self.component.options
        good = schema.model_validate(dict(self.options))
        for name, field in schema.model_fields.items():
            if name in self.any_number or _number(field.annotation) is None:
                continue
            expect(not _takes(schema, good, name, float("nan")), f"option '{name}' takes nan")
            both = _takes(schema, good, name, HUGE) and _takes(schema, good, name, -HUGE)
            expect(
                not both,
                f"option '{name}' takes {HUGE:.0e} as well as {-HUGE:.0e}: give its Field bounds "
                f"(ge=, gt=, le=, lt=), or list it in the suite's any_number",
            )

    def test_unknown_options_are_refused(self):
        schema = self.component.options
        given = {**self.options, NONSENSE: 1}
        try:
            schema.model_validate(given)
        except ValidationError as error:
            if any(problem["type"] == "extra_forbidden" for problem in error.errors()):
                return
        fail(f"{schema.__name__} takes an option that it does not have: leave extra='forbid' as it is")

    def test_options_survive_the_resolved_recipe(self):
        schema = self.component.options
        given = schema.model_validate(dict(self.options))
        again = schema.model_validate(given.model_dump(mode="json"))
        expect_same(
            {name: getattr(again, name) for name in schema.model_fields},
            {name: getattr(given, name) for name in schema.model_fields},
            "options differ after the way through the resolved recipe, a YAML file: keep to plain types",
        )
        try:
            for name in list(schema.model_fields)[:1]:
                setattr(given, name, getattr(given, name))
                fail(f"{schema.__name__} can be changed after it was checked: leave frozen=True as it is")
        except ValidationError:
            return


def _fields(model: type[BaseModel], where: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """All fields, those of models within included."""
    for name, field in model.model_fields.items():
        yield f"{where}{name}", field
        for inner in _models(field.annotation):
            yield from _fields(inner, f"{where}{name}.")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for inner in typing.get_args(annotation) for model in _models(inner)]


def _number(annotation: Any) -> type | None:
    """int or float, if a field is that (or null) and nothing else."""
    kinds = set(typing.get_args(annotation) or (annotation,)) - {type(None)}
    return kinds.pop() if len(kinds) == 1 and kinds <= {int, float} else None


def _takes(schema: type[PluginOptions], good: PluginOptions, name: str, value: float) -> bool:
    try:
        schema.model_validate({**good.model_dump(), name: value})
    except ValidationError:
        return False
    return True
