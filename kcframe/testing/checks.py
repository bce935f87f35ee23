"""A suite run without pytest, one check after the other."""

from __future__ import annotations

import io
import traceback
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import SkipTest

import torch

from kcframe.errors import KcframeError
from kcframe.testing.suite import PluginSuite

TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True)
class Check:
    """name: what is checked, in words. why: of a check that failed or was skipped, else ''."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    why: str = ""


def run_checks(suite: type[PluginSuite]) -> Iterator[Check]:
    """Run all checks of a suite, each on an object of its own."""
    for method in check_names(suite):
        yield _run(suite, method)


def check_names(suite: type[PluginSuite]) -> list[str]:
    """The names of a suite's checks: those of all plugins first, each class's in the order it has them.

    What a class sets to None is left out.
    """
    names = [name for base in reversed(suite.__mro__) for name in vars(base) if name.startswith("test_")]
    return [name for name in dict.fromkeys(names) if callable(getattr(suite, name))]


def _run(suite: type[PluginSuite], method: str) -> Check:
    name = method.removeprefix("test_").replace("_", " ")
    try:
        # What a callback prints in a check is of no interest.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            getattr(suite(), method)()
    except SkipTest as error:
        return Check(name, "skipped", str(error))
    except (AssertionError, KcframeError) as error:
        return Check(name, "failed", str(error))
    except Exception as error:  # a stranger's code: anything may come
        frames = traceback.extract_tb(error.__traceback__)
        # Not deep within torch, but where it was called.
        frame = next((f for f in reversed(frames) if not f.filename.startswith(TORCH)), frames[-1])
        why = f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
        return Check(name, "failed", why)
    return Check(name, "passed")
