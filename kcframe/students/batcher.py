"""Single pictures from many clients become batches for one network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Full(Exception):
    """More is waiting than may wait, or nothing is answered any more."""


@dataclass
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]


class Batcher(Generic[Item, Answer]):
    """Hands what has come meanwhile to `work`, at most `size` items at a time, in a thread of its own.

    While a batch is worked on the next one gathers, so that batches grow with the load; nobody waits for
    company. Items that nobody waits for any more are left out.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        size: int,
        max_waiting: int,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self.work, self.size, self.on_batch = work, size, on_batch
        self._queue: asyncio.Queue[_Waiting[Item, Answer]] = asyncio.Queue(max_waiting)
        self._thread = ThreadPoolExecutor(1, "network")
        self._task: asyncio.Task[None] | None = None
        self._open = True

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Whoever still waits gets Full; so does whoever comes later."""
        self._open = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while not self._queue.empty():
            _refuse([self._queue.get_nowait()])
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def ask(self, item: Item) -> Answer:
        """One item's answer. Raises Full at once if too many are waiting, and whatever `work` raises."""
        waiting: _Waiting[Item, Answer] = _Waiting(item, asyncio.get_running_loop().create_future())
        if not self._open:
            raise Full
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise Full from None
        return await waiting.answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._gather()
            try:
                if batch:
                    self.on_batch(len(batch))
                    items = [each.item for each in batch]
                    answers = await loop.run_in_executor(self._thread, self.work, items)
                    for each, answer in zip(batch, answers, strict=True):
                        if not each.answer.done():
                            each.answer.set_result(answer)
            except Exception as error:  # each client is told; the next batch may be better
                for each in batch:
                    if not each.answer.done():
                        each.answer.set_exception(error)
            finally:
                _refuse(batch)  # of a batch that was stopped

    async def _gather(self) -> list[_Waiting[Item, Answer]]:
        batch = [await self._queue.get()]
        while len(batch) < self.size and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return [each for each in batch if not each.answer.done()]


def _refuse(batch: Sequence[_Waiting]) -> None:
    for each in batch:
        if not each.answer.done():
            each.answer.set_exception(Full())
