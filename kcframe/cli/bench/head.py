"""`kcframe bench head`: a step of head, pacing and objective against its bare matrix products and against the
dense way, which has all [B, N] logits at once."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from kcframe.cli.bench.figures import name_of, spread, waited_for, write_json
from kcframe.cli.bench.memory import peak_bytes
from kcframe.cli.bench.problem import Bench, PlainObjective, Sizes
from kcframe.cli.bench.products import bare_products
from kcframe.engine.loss.closed_form import Workspace
from kcframe.interfaces.options import PluginOptions
from kcframe.run.backends.local import choose_device

PRODUCTS, OURS, PLAIN, DENSE = "matrix products", "this head", "plain plugins", "dense"
SOFTMAX, SOFTMAX_PRODUCTS = "softmax: linear_cross_entropy", "softmax: matrix products"
OPTIMIZERS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "one by one": {"foreach": False}}
SCALING = (12_500, 25_000, 50_000, 100_000, 200_000)


def sizes_from(device: str, dtype: str, sizes: dict[str, Any]) -> Sizes:
    """As the command line says them."""
    return Sizes(**sizes, device=choose_device(device), dtype=getattr(torch, dtype))


def bench_head(
    sizes: Sizes,
    rounds: int,
    trained: int,
    filter_error: float,
    scaling: bool,
    optimizers: bool,
    json_file: str | None,
) -> None:
    """Measure, print a table, and write the figures."""
    console = Console()
    bench = Bench(sizes)
    times = _in_turn(_ways(bench), rounds, sizes.device)
    times |= _in_turn(_softmax_ways(sizes), rounds, sizes.device)
    memory = _memory(bench)
    filtered = _filtered(bench, rounds, trained, filter_error) if trained else None
    found = _found(sizes, times, memory, filtered)
    console.print(_table(found))
    if scaling:
        found["scaling"] = _scaling(sizes, rounds)
        console.print(_scaling_table(found["scaling"]))
    if optimizers:
        found["optimizers"] = _optimizers(bench, rounds)
        for name, over in found["optimizers"].items():
            console.print(f"AdamW, {name}: {spread(over, 2)} of a step's matrix products", highlight=False)
    write_json(found, json_file)


def _optimizers(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """A step of AdamW over the head's parameters, each of torch's ways, over the head's matrix products."""
    bench.step()
    parameters = [p for p in bench.head.parameters() if p.grad is not None]
    products = _ways(bench)[PRODUCTS]
    found = {}
    for name, options in OPTIMIZERS.items():
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, **options)  # one at a time: each has two states
        times = _in_turn({PRODUCTS: products, name: optimizer.step}, rounds, bench.sizes.device)
        found[name] = _ratios(times[name], times[PRODUCTS])
    return found


def _ways(bench: Bench) -> dict[str, Callable[[], object]]:
    plain, objective = bench.plain_head(), PlainObjective(PluginOptions())
    return {
        PRODUCTS: bare_products(lambda: bench.step(plain, objective)),
        OURS: bench.step,
        PLAIN: lambda: bench.step(plain, objective),
        DENSE: bench.dense_step,
    }


def _softmax_ways(sizes: Sizes) -> dict[str, Callable[[], object]]:
    """One softmax over all classes, on features of the same width: what torch has for it."""
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
    """Bytes above the parameters and their gradients."""
    found = {}
    for name, way in ((OURS, lambda: bench.step(workspace=Workspace())), (DENSE, bench.dense_step)):
        for parameter in bench.head.parameters():
            parameter.grad = None
        found[name] = peak_bytes(bench.sizes.device, way) - bench.gradient_bytes()
    return found


def _filtered(bench: Bench, rounds: int, trained: int, filter_error: float) -> dict[str, Any]:
    """The gradient filter after some training: its time, and the error of the matrices' gradients."""
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
    found = bench.gradients()
    errors = {name: float((found[name] - g).norm() / g.norm()) for name, g in exact.items() if g.any()}
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


def _found(
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


def _table(found: dict[str, Any]) -> Table:
    s = found["sizes"]
    title = (
        f"a step of the head: {s['expander']}, N = {s['classes']:,}, M = {s['verticals']}, s1 = {s['s1']}, "
        f"s2 = {s['s2']}, K = {s['kept']}, batch {s['batch']}, {s['dtype']}, {found['device']}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "seconds", "over its products", "extra memory"):
        table.add_column(column, justify="left" if not column else "right")
    for row in found["rows"]:
        memory = "" if row["extra_bytes"] is None else f"{row['extra_bytes'] / 2**20:,.0f} MiB"
        seconds = f"{median(row['seconds']):.3f}"
        table.add_row(row["way"], seconds, spread(row["over_matmuls"], 2), memory)
    if filtered := found["gradient_filter"]:
        after = f"after {filtered['trained_steps']} steps:"
        table.add_row(f"{after} this head", "", spread(filtered["exact_over_matmuls"], 2), "")
        table.add_row(
            f"{after} filter {filtered['gradient_filter']:g}", "", spread(filtered["over_matmuls"], 2), ""
        )
        errors = f"{filtered['classifier_error']:.1e} and {filtered['largest_error']:.1e}"
        table.add_row(
            "  its largest relative error in a classifier's and in any matrix's gradient", "", errors
        )
    return table


def _scaling(sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    """This head's time and memory by N, everything else as it is."""
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


def _scaling_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="this head by N", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("N", "largest vertical", "seconds", "extra memory", "gradients"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row['classes']:,}",
            f"{row['largest_vertical']:,}",
            spread(row["seconds"]),
            f"{row['extra_bytes'] / 2**20:,.0f} MiB",
            f"{row['gradient_bytes'] / 2**20:,.0f} MiB",
        )
    return table
