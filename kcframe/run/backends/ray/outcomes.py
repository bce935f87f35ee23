"""How stages end on a cluster: worker groups in a thread that can be left, and why a stage failed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError, WorkerCrashedError

from kcframe.errors import KcframeError
from kcframe.stages.base import Stage

LOST = (ActorDiedError, NodeDiedError, WorkerCrashedError)
ECHOES = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
"""What the other workers of a group say when one is lost."""


class WorkerGroups:
    """Stages that worker groups train, one group after the other, in a thread of its own: Ray's fit() blocks,
    and would take Ctrl-C. Nobody waits for the thread: a group that waits for room may never begin."""

    def __init__(self, fit: Callable[[Stage], None]):
        """fit: trains a stage to its end."""
        self.pending: list[Stage] = []
        self._fit = fit
        self._queue: queue.SimpleQueue[Stage | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[tuple[Stage, Exception | None]] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, stage: Stage) -> None:
        """Train a stage once those before it have ended."""
        self.pending.append(stage)
        self._queue.put(stage)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (stage := self._queue.get()) is not None:
            error = None
            if not self._cancelled.is_set():
                try:
                    self._fit(stage)
                except Exception as raised:  # shown by whoever asks what has ended
                    error = raised
            self._ended.put((stage, error))

    def cancel(self) -> None:
        """Begin no other group."""
        self._cancelled.set()
        self._queue.put(None)

    def leave(self, stages: Sequence[Stage]) -> None:
        """Do not wait for these."""
        self.pending = [stage for stage in self.pending if stage not in stages]

    def ended(self) -> dict[Stage, Exception | None]:
        """The stages that have ended since the last call, with what they raised."""
        ended: dict[Stage, Exception | None] = {}
        while not self._ended.empty():
            stage, error = self._ended.get()
            if stage in self.pending:
                self.pending.remove(stage)
                ended[stage] = error
        return ended


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
