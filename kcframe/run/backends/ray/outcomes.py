"""How stages end on a cluster: worker groups in a thread that can be left, and why something failed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError, WorkerCrashedError

from kcframe.errors import KcframeError
from kcframe.stages.stages import Stage

LOST = (ActorDiedError, NodeDiedError, WorkerCrashedError)
ECHOES = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
"""What the other workers of a group say when one is lost."""


class Fits:
    """Worker groups, one after the other, in a thread of their own: Ray's fit() blocks, and would take
    Ctrl-C. Nobody waits for the thread: a group that waits for room may never begin."""

    def __init__(self, stages: Sequence[Stage], fit: Callable[[Stage], None]):
        self.pending = list(stages)
        self._ended: queue.SimpleQueue[tuple[Stage, Exception | None]] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        if stages:
            threading.Thread(target=self._all, args=(tuple(stages), fit), daemon=True).start()

    def _all(self, stages: Sequence[Stage], fit: Callable[[Stage], None]) -> None:
        for stage in stages:
            error = None
            if not self._cancelled.is_set():
                try:
                    fit(stage)
                except Exception as raised:  # shown by whoever asks what has ended
                    error = raised
            self._ended.put((stage, error))

    def cancel(self) -> None:
        """Begin no other group."""
        self._cancelled.set()

    def leave(self, stages: Sequence[Stage]) -> None:
        """Do not wait for these."""
        self.pending = [stage for stage in self.pending if stage not in stages]

    def ended(self) -> dict[Stage, Exception | None]:
        """The stages that have ended since the last call, with what they raised."""
        found: dict[Stage, Exception | None] = {}
        while not self._ended.empty():
            stage, error = self._ended.get()
            if stage in self.pending:
                self.pending.remove(stage)
                found[stage] = error
        return found


def reason(error: Exception) -> str:
    """Why a stage failed, in a line: what is wrong, without Ray's traceback."""
    if failures := getattr(error, "worker_failures", None):
        error = min(failures.values(), key=_rank)
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    if isinstance(error, LOST):
        return "its process or machine was lost too often"
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, KcframeError) and text else f"{type(error).__name__}: {text}"


def _rank(error: Exception) -> int:
    """Which of a group's failures tells most: the one that came first, not its echoes."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, KcframeError):
        return 0
    if isinstance(cause, LOST):
        return 1
    return 3 if any(echo in str(error).lower() for echo in ECHOES) else 2
