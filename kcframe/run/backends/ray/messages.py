"""How workers tell the driver what they do, and the driver tells them to stop: one small actor.

Imports no torch: the actor's process should start at once.
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

EVERY = 0.5  # seconds between two messages of one stage

Event = tuple[str, str, Any]  # (stage's folder, what, details)


class Board:
    """Events in the order in which they came, and which stages should stop."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stop = False
        self.failed: set[str] = set()

    def post(self, folder: str, what: str, details: Any = None) -> bool:
        """Keep an event. Returns whether the stage should stop: it was asked to, or has failed for good."""
        self.events.append((folder, what, details))
        if what == "failed":
            self.failed.add(folder)
        return self.stop or folder in self.failed

    def take(self) -> list[Event]:
        """The events since the last call."""
        taken, self.events = self.events, []
        return taken

    def ask_to_stop(self) -> None:
        self.stop = True


def start_board() -> ray.actor.ActorHandle:
    """A board, in the driver's own node if that has room. It starts anew elsewhere if its node is lost: what
    was posted and not taken yet is lost with it, which costs a line of progress."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return (
        ray.remote(Board)
        .options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
        .remote()
    )


class Reporter:
    """A stage's `Observer` in a worker: posts to the board, at most every EVERY seconds, never waiting."""

    def __init__(self, board: ray.actor.ActorHandle, folder: str, rank: int):
        self.board, self.folder, self.rank = board, folder, rank
        self._posted = 0.0
        self._answer: ray.ObjectRef | None = None
        self._stop = False

    def step(self, step: int, num_steps: int, loss: float) -> None:
        if self.rank == 0 and time.monotonic() - self._posted >= EVERY:
            self._posted = time.monotonic()
            self._answer = self.board.post.remote(self.folder, "step", (step, num_steps, loss))

    def evaluated(self, epoch: int, evaluation: Any) -> None:
        self.board.post.remote(self.folder, "evaluated", (epoch, evaluation.per_vertical))

    def say(self, text: str) -> None:
        self.board.post.remote(self.folder, "said", text)

    def post(self, what: str, details: Any = None) -> bool:
        """Post and wait for the answer: should this stage stop?"""
        return ray.get(self.board.post.remote(self.folder, what, details))

    def should_stop(self) -> bool:
        """What the board last said."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stop = self._stop or ray.get(self._answer)
            self._answer = None
        return self._stop
