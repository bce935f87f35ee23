"""Errors that a user can cause. Each message says what to do.

The command line prints the text of a `KcframeError` and exits without a traceback. Any other exception is a
bug of kcframe.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KcframeError(Exception):
    """Base class of all errors for users. `exit_code` is the exit status of the command."""

    exit_code = 1


class RecipeError(KcframeError):
    """A recipe has one or more errors. `problems` has one readable line for each."""

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class PluginError(KcframeError):
    """A plugin is missing or broken, two have one name, or a plugin returned a wrong object."""


class DataError(KcframeError):
    """Images, labels, taxonomy or weights are missing or wrong."""


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


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error message: the nearest of the valid names, else a list of them.

    >>> did_you_mean("self-pased", ["none", "self-paced"])
    "did you mean 'self-paced'?"
    """
    names = sorted(map(str, names))
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    if not names:
        return "nothing is known by any name here"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"known: {shown}"
