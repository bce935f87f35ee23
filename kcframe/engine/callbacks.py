"""A stage's callbacks, each behind a guard: none of them can end a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from kcframe.interfaces.callback import Callback
from kcframe.interfaces.component import label


class Callbacks:
    """Tells all of them; one that raises is switched off, and `say` tells why."""

    def __init__(self, callbacks: Sequence[Callback], say: Callable[[str], None]):
        self.at_work = list(callbacks)
        self.say = say

    def tell(self, what: str, *details: Any) -> None:
        """what: the name of a method of `Callback`."""
        for callback in list(self.at_work):
            try:
                # Each has its own copy: what one does to it is nobody else's business.
                getattr(callback, what)(*deepcopy(details))
            except Exception as error:  # a stranger's code, and a stranger's server behind it
                self.at_work.remove(callback)
                why = f"{what}(): {type(error).__name__}: {error}"
                self.say(f"{label(callback)} is switched off for this stage: {why}")
