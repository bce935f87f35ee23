"""`kcframe bench step`: measure a whole training step.

`teachers` measures the cost of teachers (--backend local), `overhead` the cost of Ray (--backend ray).
"""

from __future__ import annotations

from typing import Any

import click

from kcframe.cli.options import DEVICE, DTYPE, JSON, ROUNDS


@click.command("step")
@click.option(
    "--backend",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="local: what teachers cost a step, routed and not; ray: a step on a Ray worker against one here.",
)
@ROUNDS
@click.option("--steps", type=click.IntRange(2), help="Steps a turn. Default: 4 (local), 400 (ray).")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Images (local).")
@click.option("--teachers", default=8, show_default=True, type=click.IntRange(1), help="(local)")
@click.option("--image-size", default=64, show_default=True, type=click.IntRange(32), help="(local)")
@DEVICE
@DTYPE
@JSON
def command(backend: str, rounds: int, steps: int | None, json_file: str | None, **local: Any) -> None:
    """A whole training step: what teachers cost it, or (--backend ray) what Ray does."""
    if backend == "ray":
        from kcframe.cli.bench.overhead import bench_overhead

        bench_overhead(rounds, steps or 400, json_file)
    else:
        from kcframe.cli.bench.teachers import bench_teachers

        bench_teachers(rounds, steps or 4, json_file, **local)
