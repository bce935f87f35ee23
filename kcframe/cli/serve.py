"""`kcframe serve`: answer HTTP requests with a student, until Ctrl-C."""

from __future__ import annotations

import sys

import click

from kcframe.cli.options import DEVICE, PLUGIN, STUDENT, batch_option, count_option
from kcframe.errors import ServeError
from kcframe.students.extras import need

ABOVE_ZERO = click.FloatRange(0.001, 1_000_000)


@click.command("serve")
@STUDENT
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: for other machines, too.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any.")
@batch_option(32)
@click.option(
    "--max-mb", default=10.0, show_default=True, type=ABOVE_ZERO, help="Largest file that is taken."
)
@click.option("--max-seconds", default=10.0, show_default=True, type=ABOVE_ZERO, help="For one answer.")
@count_option("--max-waiting", 128, "Requests at a time.")
@DEVICE
@PLUGIN
def command(
    run: str,
    host: str,
    port: int,
    batch: int,
    device: str,
    *,
    max_mb: float,
    max_seconds: float,
    max_waiting: int,
) -> None:
    """Answer over HTTP: POST /predict, a page to drop a picture on, /healthz and /metrics."""
    needs = {"starlette": "starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
    need("kcframe serve", "serve", needs)
    import uvicorn

    from kcframe.run.backends.local import choose_device
    from kcframe.students.load import load
    from kcframe.students.serve import Limits, listen, make_app

    classifier = load(run, device=choose_device(device))
    limits = Limits(
        batch=batch,
        max_bytes=int(max_mb * 2**20),
        max_seconds=max_seconds,
        max_waiting=max_waiting,
    )
    try:
        socket = listen(host, port)
    except OSError as error:
        raise ServeError(
            f"{host}:{port}: cannot be listened on: {error.strerror}; give another --port, 0 for any"
        ) from None
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{socket.getsockname()[1]}"
    click.echo(f"{classifier.arm}, {classifier.taxonomy.num_classes:,} classes: {address}")
    # A program that started this one may wait for this line to learn the address.
    sys.stdout.flush()
    click.echo(f"  curl --data-binary @picture.jpg '{address}/predict?top=5'")
    server = uvicorn.Server(uvicorn.Config(make_app(classifier, limits), log_level="warning"))
    server.run(sockets=[socket])
