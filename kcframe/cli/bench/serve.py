"""`kcframe bench serve`: latency and throughput of `kcframe serve` under load.

Batches and single pictures take turns.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import click
from PIL import Image
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kcframe.cli.bench.figures import name_of, spread, write_json
from kcframe.cli.options import DEVICE, JSON, STUDENT, batch_option, count_option
from kcframe.errors import ServeError

if TYPE_CHECKING:
    from kcframe.students.load import Classifier

ENOUGH = 10  # the fewest answers per turn
WARM_UP = 0.5  # seconds of each turn that are not counted


@click.command("serve")
@STUDENT
@count_option("--clients", 16, "Clients, each sending one picture after the other.")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1), help="A turn.")
@count_option("--rounds", 3, "Turns of each way.")
@batch_option(32)
@DEVICE
@JSON
def command(**given: Any) -> None:
    """Latency and pictures a second of `kcframe serve` under load, with batching and without."""
    bench_serve(**given)


def bench_serve(
    run: str,
    clients: int,
    seconds: float,
    rounds: int,
    batch: int,
    *,
    device: str,
    json_file: str | None = None,
) -> None:
    """Measure the answers of a server to clients in this process. The server has a process of its own.

    Each client has a connection of its own, and sends the next picture after the answer to the last one.
    """
    from kcframe.run.backends.local import choose_device
    from kcframe.students.load import load

    classifier = load(run, device=choose_device(device))
    pictures = _as_files(classifier)
    rows: list[dict[str, Any]] = []
    for number in range(rounds):
        for way, size in (("batching", batch), ("one by one", 1)):
            with _served(run, size, clients, device) as url:
                took = asyncio.run(_load(url, pictures, clients, seconds))
            if len(took) < ENOUGH:
                raise ServeError(
                    f"{len(took)} answers in {seconds:g} seconds are too few: give more --seconds"
                )
            cuts = quantiles(took, n=100, method="inclusive")
            rows.append(
                {
                    "way": way,
                    "round": number,
                    "images_per_second": len(took) / seconds,
                    "p50_ms": 1000 * cuts[49],
                    "p99_ms": 1000 * cuts[98],
                    "requests": len(took),
                }
            )
    figures = ("images_per_second", "p50_ms", "p99_ms")
    ways = list(dict.fromkeys(row["way"] for row in rows))
    table = Table(
        title=f"{escape(classifier.arm)} served on {name_of(classifier.device)}, {clients} clients",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("", "images/s", "p50, ms", "p99, ms"):
        table.add_column(heading, justify="right" if heading else "left")
    for way in ways:
        turns = [row for row in rows if row["way"] == way]
        table.add_row(way, *(spread([turn[figure] for turn in turns], 1) for figure in figures))
    Console().print(table)
    medians = {way: {f: median(r[f] for r in rows if r["way"] == way) for f in figures} for way in ways}
    write_json({"clients": clients, "batch": batch, **medians, "rows": rows}, json_file)


def _as_files(classifier: Classifier) -> list[bytes]:
    """The run's sample pictures as PNG files, as clients send them."""
    from kcframe.students.export import sample_images

    files = []
    for image in sample_images(classifier)[0]:
        pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


@contextmanager
def _served(run: str, batch_size: int, clients: int, device: str) -> Iterator[str]:
    """Start `kcframe serve` in a process of its own, give its URL, and stop it afterwards."""
    options = ["--port", "0", "--batch", str(batch_size), "--device", device]
    options += ["--max-waiting", str(2 * clients)]
    command = [sys.executable, "-m", "kcframe", "serve", run, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    try:
        first = process.stdout.readline() if process.stdout else ""
        if "http://" not in first:
            raise ServeError("kcframe serve did not start; its own words are above")
        yield "http://" + first.strip().rpartition("http://")[2]
    finally:
        process.terminate()
        process.wait()


async def _load(url: str, pictures: list[bytes], clients: int, seconds: float) -> list[float]:
    """Send requests; return the seconds of each one that began after the warm-up."""
    import aiohttp

    took: list[float] = []
    start = time.perf_counter() + WARM_UP

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        place = number
        while (began := time.perf_counter()) < start + seconds:
            async with session.post(f"{url}/predict", data=pictures[place % len(pictures)]) as response:
                if response.status != 200:
                    raise ServeError(f"{url}: {response.status}: {await response.text()}")
                await response.read()
            if began >= start:
                took.append(time.perf_counter() - began)
            place += 1

    connector = aiohttp.TCPConnector(limit=clients)
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(client(session, number) for number in range(clients)))
    except aiohttp.ClientError as error:
        raise ServeError(f"{url}: {error}") from None
    return took
