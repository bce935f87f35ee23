"""A group of workers that are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from kcframe.engine.world import World


class Threads:
    """all_reduce between threads. built: set when a worker has reached its first all_reduce."""

    def __init__(self, size: int):
        self.size, self.parts = size, {}
        self.barrier, self.built = threading.Barrier(size, timeout=30), threading.Event()

    def of(self, rank: int) -> World:
        def all_reduce(tensor):
            self.built.set()
            self.parts[rank] = tensor.clone()
            self.barrier.wait()
            total = sum(self.parts[r] for r in range(self.size))
            self.barrier.wait()
            tensor.copy_(total)

        return World(rank, self.size, torch.device("cpu"), all_reduce)


def on_all(size: int, work: Callable[[World], Any]) -> list[Any]:
    """What `work` returns on each of `size` workers, by rank; raises what one of them raised."""
    world, results, errors = Threads(size), [None] * size, []

    def one(rank: int) -> None:
        try:
            results[rank] = work(world.of(rank))
        except Exception as error:
            errors.append(error)
            world.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    return results
