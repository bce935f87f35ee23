"""What is wrong with a plugin's name or options is caught, whatever its kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ConfigDict, Field

from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing


class Inner(PluginOptions):
    rate: float = Field(0.5, ge=0, le=1)


class Undescribed(PluginOptions):
    inner: Inner = Field(Inner(), description="described, but not what is in it")


class Unbounded(PluginOptions):
    rate: float | None = Field(0.5, description="of something")


class Lax(PluginOptions):
    model_config = ConfigDict(extra="ignore")


class Lossy(PluginOptions):
    keep: frozenset[int] = Field(frozenset({1}), description="a set, which no file holds")
    at: Path = Field(Path("a"), description="a path comes back as one")
    secret: str = Field("x", description="left out of the recipe", exclude=True)


class Thawed(PluginOptions):
    model_config = ConfigDict(frozen=False)
    rate: float = Field(0.5, ge=0, le=1, description="may be changed")


@pytest.mark.parametrize(
    ("options", "check", "said"),
    [
        (Undescribed, "every option is described", "option 'inner.rate' has no description"),
        (
            Unbounded,
            "numbers have bounds",
            "option 'rate' takes 1e+15 as well as -1e+15: give its Field",
        ),
        (Lax, "unknown options are refused", "Lax takes an option that it does not have"),
        (Lossy, "options survive the resolved recipe", "secret: "),
        (Thawed, "options survive the resolved recipe", "Thawed can be changed after it was checked"),
    ],
)
def test_options(why, options, check, said):
    plugin = type("P", (Pacing,), {"Options": options, "__doc__": "P."})
    given = {"secret": "y"} if options is Lossy else {}
    assert said in why("pacing", plugin, check, given)


def test_numbers_that_may_be_anything_are_named(why):
    plugin = type("P", (Pacing,), {"Options": Unbounded, "__doc__": "P."})
    assert why("pacing", plugin, "numbers have bounds", any_number=("rate",)) == ""


def test_a_class_that_cannot_be_built(why):
    class P(Pacing):
        def __init__(self, options):
            super().__init__(options)

    said = why("pacing", P, "paced logits keep their shape")
    assert "pacing 'x' of kcframe-x 1.0 cannot be built: TypeError" in said
