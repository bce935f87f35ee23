"""What checks say when they fail: always a sentence, with pytest or without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor


def fail(message: str) -> NoReturn:
    """End a check. message: what is wrong and what to do about it."""
    __tracebackhide__ = True
    raise AssertionError(message)


def expect(condition: bool, message: str) -> None:
    """End a check with the message unless the condition holds."""
    __tracebackhide__ = True
    if not condition:
        fail(message)


def expect_finite(what: str, tensor: Tensor) -> None:
    """End a check if a number is nan or infinite."""
    __tracebackhide__ = True
    if not bool(tensor.isfinite().all()):
        fail(f"{what} has {int((~tensor.isfinite()).sum())} of {tensor.numel()} numbers nan or infinite")


def expect_same(actual: Any, wanted: Any, message: str) -> None:
    """End a check unless two trees of tensors and plain values are equal to the bit."""
    __tracebackhide__ = True
    if difference := first_difference(actual, wanted):
        fail(f"{message} (first difference: {difference})")


def first_difference(a: Any, b: Any, where: str = "") -> str | None:
    """Where two trees differ, in words; None if they are equal. nan equals nan."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{where or 'it'}: {_kind(a)} and {_kind(b)}"
        if torch.equal(a.nan_to_num(nan=0.5), b.nan_to_num(nan=0.5)) and torch.equal(a.isnan(), b.isnan()):
            return None
        return f"{where or 'it'}: up to {float((a.double() - b.double()).abs().nan_to_num().max()):.3g} apart"
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if missing := sorted(map(str, set(a) ^ set(b))):
            return f"{where}/{missing[0]}: only in one of the two".lstrip("/")
        pairs = [(str(key), a[key], b[key]) for key in a]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{where or 'it'}: {len(a)} entries and {len(b)}"
        pairs = [(str(n), x, y) for n, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if a == b or (a != a and b != b) else f"{where or 'it'}: {a!r} and {b!r}"
    for key, x, y in pairs:
        if difference := first_difference(x, y, f"{where}/{key}".lstrip("/")):
            return difference
    return None


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
