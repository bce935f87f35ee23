"""A stage's callbacks, each behind a guard: none of them can end a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kcframe.interfaces.callback import Callback


class Callbacks:
    """Tells all of them; one that raises is switched off, and `say` tells why."""

    def __init__(self, callbacks: Mapping[str, Callback], say: Callable[[str], None]):
        """callbacks: by what to call them in messages."""
        self.at_work = dict(callbacks)
        self.say = say

    def tell(self, what: str, *details: Any) -> None:
        """what: the name of a method of `Callback`."""
        for name, callback in list(self.at_work.items()):
            try:
                getattr(callback, what)(*details)
            except Exception as error:  # a stranger's code, and a stranger's server behind it
                del self.at_work[name]
                self.say(f"{name} is switched off for this stage: {what}: {type(error).__name__}: {error}")
