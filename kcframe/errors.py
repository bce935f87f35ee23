"""The user's mistakes, each with what to do about it.

Anything a user can cause is a `KcframeError`: the command line prints its text and exits without a
traceback. Anything else that escapes is our mistake.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KcframeError(Exception):
    """Base of all errors meant for people. `exit_code` is the command's exit status."""

    exit_code = 1


class RecipeError(KcframeError):
    """One or more things are wrong in a recipe. `problems` holds one readable line each."""

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class PluginError(KcframeError):
    """A plugin is missing, broken, named twice, or returned something it must not."""


class DataError(KcframeError):
    """Images, labels or taxonomy are not what was promised."""


class RunDirError(KcframeError):
    """A run directory cannot be read, written, or continued with this recipe."""


class StorageError(RunDirError):
    """The storage refused or failed; the same attempt may succeed later."""


class TrainingError(KcframeError):
    """Training cannot go on, for example because the loss is no longer a number."""


class ServeError(KcframeError):
    """A student cannot be served here, for example because another program has the port."""


class Interrupted(KcframeError):
    """The user (or the machine) asked the run to stop; everything so far is saved."""

    exit_code = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest known name, else the list of names.

    >>> did_you_mean("self-pased", ["none", "self-paced"])
    "did you mean 'self-paced'?"
    """
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    if not known:
        return "nothing is known by any name here"
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"known: {shown}"
