"""Run the matrix products of a piece of code by themselves. Their time is a lower bound for that code."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MM, ADDMM = torch.ops.aten.mm.default, torch.ops.aten.addmm.default


def bare_products(action: Callable[[], object]) -> Callable[[], None]:
    """Run `action` once, and return a function that computes its matrix products alone.

    The products have the same shapes, layouts, formats and order. Tensors that share memory in `action` share
    memory here. The function allocates no memory.
    """
    with _Recorder() as recorder:
        action()
    products = recorder.products

    def again() -> None:
        for left, right, out in products:
            torch.mm(left, right, out=out)

    return again


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[Tensor, Tensor, Tensor]] = []
        self._copies: dict[tuple[int, int], Tensor] = {}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if function in (MM, ADDMM):
            left, right = arguments[-2:]
            self.products.append((self._copy(left), self._copy(right), self._copy(result)))
        return result

    def _copy(self, tensor: Tensor) -> Tensor:
        """A tensor of the same layout in new memory. Tensors that share memory get copies that share it."""
        storage = tensor.untyped_storage()
        key = (storage.data_ptr(), storage.nbytes())
        if key not in self._copies:
            self._copies[key] = torch.randn(
                storage.nbytes() // tensor.element_size(), dtype=tensor.dtype, device=tensor.device
            )
        return self._copies[key].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
