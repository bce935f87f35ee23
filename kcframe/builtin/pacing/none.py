"""No pacing."""

from __future__ import annotations

from kcframe.interfaces.pacing import Pacing


class NoPacing(Pacing):
    """Logits as they are, and the same weight for every vertical."""

    name = "none"
