"""No pacing."""

from __future__ import annotations

from torch import Tensor

from kcframe.interfaces.pacing import Pacing


class NoPacing(Pacing):
    """Logits as they are, and the same weight for every vertical."""

    name = "none"
    has_closed_form = True

    def apply(self, logits: Tensor, vertical: int) -> None: ...

    def pull_back(self, gradient: Tensor, paced: Tensor, vertical: int, saved: None) -> None: ...
