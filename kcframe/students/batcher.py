"""Collects single pictures from many clients into batches for one network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Full(Exception):
    """Too many items are waiting, or the batcher has stopped."""


@dataclass
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]


class Batcher(Generic[Item, Answer]):
    """Passes waiting items to `work` in batches of at most `size`, in a separate thread.

    While one batch is processed, the next one collects. So batches grow with the load, and no item waits for
    a batch to fill. Items whose client has gone are left out.
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
        """Stops. Waiting and later requests get Full."""
        self._open = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while not self._queue.empty():
            _refuse([self._queue.get_nowait()])
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def ask(self, item: Item) -> Answer:
        """The answer for one item. Raises Full at once if too many are waiting, and any error of `work`."""
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
                    items = [request.item for request in batch]
                    answers = await loop.run_in_executor(self._thread, self.work, items)
                    for request, answer in zip(batch, answers, strict=True):
                        if not request.answer.done():
                            request.answer.set_result(answer)
            except Exception as error:  # every client of the batch gets the error; the loop goes on
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
            finally:
                _refuse(batch)  # only if the batch was cancelled: other requests are done

    async def _gather(self) -> list[_Waiting[Item, Answer]]:
        batch = [await self._queue.get()]
        while len(batch) < self.size and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return [request for request in batch if not request.answer.done()]


def _refuse(batch: Sequence[_Waiting]) -> None:
    for request in batch:
        if not request.answer.done():
            request.answer.set_exception(Full())
