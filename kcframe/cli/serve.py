"""`kcframe serve`: a student behind HTTP, until Ctrl-C."""

from __future__ import annotations

import sys

import click

from kcframe.errors import ServeError
from kcframe.run.backends.local import choose_device
from kcframe.students.extras import need
from kcframe.students.load import load


def serve_student(
    run: str,
    host: str,
    port: int,
    batch_size: int,
    max_mb: float,
    max_seconds: float,
    max_waiting: int,
    device: str,
) -> None:
    """Answer until told to stop. Raises ServeError if the port cannot be had."""
    needs = {"starlette": "starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
    need("kcframe serve", "serve", needs)
    import uvicorn

    from kcframe.students.serve import Limits, listen, make_app

    classifier = load(run, device=choose_device(device))
    limits = Limits(
        batch=batch_size,
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
    # Whoever started it may read this to know where it is.
    sys.stdout.flush()
    click.echo(f"  curl --data-binary @picture.jpg '{address}/predict?top=5'")
    server = uvicorn.Server(uvicorn.Config(make_app(classifier, limits), log_level="warning"))
    server.run(sockets=[socket])
