"""Time and memory of a step of the head, of its bare matrix products, and of other ways to compute it.

The dense way has all [B, N] logits in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kcframe.cli.bench.figures import name_of, waited_for
from kcframe.cli.bench.memory import peak_bytes
from kcframe.cli.bench.problem import Bench, PlainObjective, Sizes
from kcframe.cli.bench.products import bare_products
from kcframe.engine.loss.closed_form import Workspace
from kcframe.interfaces.options import PluginOptions

PRODUCTS, OURS, PLAIN, DENSE = "matrix products", "this head", "plain plugins", "dense"
SOFTMAX, SOFTMAX_PRODUCTS = "softmax: linear_cross_entropy", "softmax: matrix products"
OPTIMIZERS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "one by one": {"foreach": False}}
SCALING = (12_500, 25_000, 50_000, 100_000, 200_000)


def measure_step(bench: Bench, rounds: int, trained: int, filter_error: float) -> dict[str, Any]:
    """Time and memory of a step in each way, and of the gradient filter after `trained` steps of training (0:
    without the filter)."""
    sizes = bench.sizes
    times = _in_turn(_ways(bench), rounds, sizes.device)
    times |= _in_turn(_softmax_ways(sizes), rounds, sizes.device)
    memory = _memory(bench)
    filtered = _filtered(bench, rounds, trained, filter_error) if trained else None
    return _figures(sizes, times, memory, filtered)


def measure_scaling(sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    """This head's time and memory for several N; the other sizes stay the same. One row per N."""
    rows = []
    for classes in SCALING:
        bench = Bench(Sizes(**{**vars(sizes), "classes": classes}))
        seconds = _in_turn({OURS: bench.step}, rounds, sizes.device)[OURS]
        for parameter in bench.head.parameters():
            parameter.grad = None
        extra = peak_bytes(sizes.device, lambda b=bench: b.step(workspace=Workspace()))
        rows.append(
            {
                "classes": classes,
                "largest_vertical": max(bench.taxonomy.sizes),
                "seconds": seconds,
                "extra_bytes": extra - bench.gradient_bytes(),
                "gradient_bytes": bench.gradient_bytes(),
            }
        )
    return rows


def measure_optimizers(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """The time of an AdamW step over the head's parameters, in each of torch's ways, relative to the time of
    the head's matrix products: name -> ratios."""
    bench.step()
    parameters = [p for p in bench.head.parameters() if p.grad is not None]
    products = _ways(bench)[PRODUCTS]
    ratios = {}
    for name, options in OPTIMIZERS.items():
        # One optimizer at a time, because each has two states per parameter.
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, **options)
        times = _in_turn({PRODUCTS: products, name: optimizer.step}, rounds, bench.sizes.device)
        ratios[name] = _ratios(times[name], times[PRODUCTS])
    return ratios


def _ways(bench: Bench) -> dict[str, Callable[[], object]]:
    plain, objective = bench.plain_head(), PlainObjective(PluginOptions())
    return {
        PRODUCTS: bare_products(lambda: bench.step(plain, objective)),
        OURS: bench.step,
        PLAIN: lambda: bench.step(plain, objective),
        DENSE: bench.dense_step,
    }


def _softmax_ways(sizes: Sizes) -> dict[str, Callable[[], object]]:
    """torch's own loss with one softmax over all classes, on features of the same width."""
    if not hasattr(F, "linear_cross_entropy"):
        return {}
    hidden = torch.randn(sizes.batch, sizes.s2, device=sizes.device, dtype=sizes.dtype)
    weight = torch.randn(sizes.classes, sizes.s2, device=sizes.device, dtype=sizes.dtype) * 0.01
    labels = torch.randint(sizes.classes, (sizes.batch,), device=sizes.device)
    hidden.requires_grad_()
    weight.requires_grad_()

    def softmax(options: Any) -> None:
        hidden.grad = weight.grad = None
        F.linear_cross_entropy(hidden, weight, labels, options=options).backward()

    chunked = nn.LinearCrossEntropyOptions()
    return {SOFTMAX: lambda: softmax(chunked), SOFTMAX_PRODUCTS: bare_products(lambda: softmax(None))}


def _in_turn(
    ways: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(waited_for(device, way))
    return times


def _memory(bench: Bench) -> dict[str, int]:
    """Bytes that a step needs beside the parameters and their gradients: way -> bytes."""
    extra = {}
    for name, way in ((OURS, lambda: bench.step(workspace=Workspace())), (DENSE, bench.dense_step)):
        for parameter in bench.head.parameters():
            parameter.grad = None
        extra[name] = peak_bytes(bench.sizes.device, way) - bench.gradient_bytes()
    return extra


def _filtered(bench: Bench, rounds: int, trained: int, filter_error: float) -> dict[str, Any]:
    """The gradient filter after some training: its time, and the errors of the matrices' gradients."""
    bench.train(trained)
    bench.features, bench.soft, bench.hard = bench.draw()
    ways = {
        PRODUCTS: bare_products(bench.dense_step),
        OURS: bench.step,
        "filtered": lambda: bench.step(filter_error=filter_error),
    }
    times = _in_turn(ways, rounds, bench.sizes.device)
    bench.step()
    exact = bench.gradients()
    bench.step(filter_error=filter_error)
    filtered = bench.gradients()
    errors = {name: float((filtered[name] - g).norm() / g.norm()) for name, g in exact.items() if g.any()}
    return {
        "trained_steps": trained,
        "gradient_filter": filter_error,
        "over_matmuls": _ratios(times["filtered"], times[PRODUCTS]),
        "exact_over_matmuls": _ratios(times[OURS], times[PRODUCTS]),
        "classifier_error": max(e for name, e in errors.items() if name.startswith("classifiers")),
        "largest_error": max(errors.values()),
    }


def _ratios(times: list[float], base: list[float]) -> list[float]:
    return [a / b for a, b in zip(times, base, strict=True)]


def _figures(
    sizes: Sizes, times: dict[str, list[float]], memory: dict[str, int], filtered: dict[str, Any] | None
) -> dict[str, Any]:
    rows = []
    for name, seconds in times.items():
        base = times[SOFTMAX_PRODUCTS if name in (SOFTMAX, SOFTMAX_PRODUCTS) else PRODUCTS]
        over = _ratios(seconds, base)
        rows.append({"way": name, "seconds": seconds, "over_matmuls": over, "extra_bytes": memory.get(name)})
    return {
        "step_over_matmuls": median(_ratios(times[OURS], times[PRODUCTS])),
        "plain_plugins_over_matmuls": median(_ratios(times[PLAIN], times[PRODUCTS])),
        "memory_over_dense": memory[OURS] / memory[DENSE],
        "speedup_over_dense": median(_ratios(times[DENSE], times[OURS])),
        "gradient_filter": filtered,
        "device": name_of(sizes.device),
        "sizes": {
            name: str(value) if name in ("device", "dtype") else value for name, value in vars(sizes).items()
        },
        "rows": rows,
    }
