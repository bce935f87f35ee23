"""Sums over workers, with messages so small that tensors are split over several."""

from __future__ import annotations

import torch

import kcframe.engine.world as module
from kcframe.engine.world import World


def test_all_tensors_are_summed_in_place_in_few_messages(monkeypatch):
    monkeypatch.setattr(module, "BUFFER", 10)
    messages = []

    def triple(tensor):
        assert tensor.is_contiguous()  # as NCCL wants it
        messages.append(tensor.numel())
        tensor *= 3  # as if three workers had the same

    world = World(0, 3, all_reduce=triple)
    tensors = [
        torch.rand(2, 3),
        torch.rand(3),
        torch.rand(25),
        torch.rand(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        torch.rand(4).double(),
        torch.rand(1),
        torch.rand(0),
    ]
    wanted = [tensor.clone() * 3 for tensor in tensors]
    world.sum(tensors)
    for tensor, want in zip(tensors, wanted, strict=True):
        torch.testing.assert_close(tensor, want)
    assert sum(messages) == 6 + 3 + 25 + 24 + 4 + 1
    assert len(messages) == 5


def test_alone_nothing_is_sent():
    def refuse(tensor):
        raise AssertionError("sent")

    alone = World(all_reduce=refuse)
    alone.sum([torch.ones(2)])
    assert alone.any(True)
    assert not alone.any(False)


def test_any_worker_may_ask():
    def one_asks(tensor):
        tensor += 1

    assert World(0, 2, all_reduce=one_asks).any(False)
