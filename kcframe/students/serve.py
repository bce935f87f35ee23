"""`kcframe serve`: a student behind HTTP. A small ASGI app, without Ray.

POST /predict   a picture's bytes -> {"top": [...]}      GET /          a page to drop a picture on
GET  /healthz   whether it answers, and what it is       GET /metrics   for Prometheus
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

import kcframe
from kcframe.interfaces.toolkit.pictures import EVERY_FORMAT, decode
from kcframe.report.page import render
from kcframe.students.batcher import Batcher, Full
from kcframe.students.load import Classifier

logger = logging.getLogger(__name__)

MAX_TOP = 100
BACKLOG = 1024  # most connections that wait to be accepted
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    batch: most pictures per forward pass. max_bytes: of a file. max_pixels: of a picture. max_seconds: for a
    request; then the client gets an error. max_waiting: most requests in progress, counted from their first
    byte. threads: that decode pictures.
    """

    batch: int = 32
    max_bytes: int = 10 * 2**20
    max_pixels: int = 50_000_000
    max_seconds: float = 10.0
    max_waiting: int = 128
    threads: int = 4


class Meters:
    """The values of /metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        shared = {"registry": self.registry}
        self.requests = Counter("kcframe_requests", "Answers of /predict by status.", ["status"], **shared)
        self.seconds = Histogram(
            "kcframe_request_seconds", "From a request to its answer.", buckets=SECONDS, **shared
        )
        self.batch = Histogram(
            "kcframe_batch_pictures", "Pictures a forward pass.", buckets=BATCHES, **shared
        )
        self.waiting = Gauge("kcframe_requests_in_progress", "Being answered now.", **shared)


def make_app(classifier: Classifier, limits: Limits = Limits()) -> Starlette:
    """An ASGI app that any server can run; bad requests get a 4xx status and {"error": reason}."""
    meters = Meters()

    def work(batch: Sequence[np.ndarray]) -> list[Tensor]:
        return list(classifier.logits(classifier.transform.batch(batch)))

    batcher: Batcher[np.ndarray, Tensor] = Batcher(
        work, limits.batch, limits.max_waiting, meters.batch.observe
    )
    decoders = ThreadPoolExecutor(limits.threads, "decode")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await batcher.start()
        yield
        await batcher.stop()
        decoders.shutdown(wait=False, cancel_futures=True)

    in_progress = 0

    async def predict(request: Request) -> Response:
        nonlocal in_progress
        began = time.perf_counter()
        in_progress += 1
        meters.waiting.set(in_progress)
        try:
            if in_progress > limits.max_waiting:
                raise Full
            response: Response = JSONResponse(
                await asyncio.wait_for(answer(request), limits.max_seconds), headers=SAFE
            )
        except ClientDisconnect:
            response = _refused(400, "the client went away before its picture was here")
        except HTTPException as refused:
            response = _refused(refused.status_code, refused.detail)
        except TimeoutError:
            response = _refused(503, f"took longer than {limits.max_seconds:g} seconds: try again later")
        except Full:
            response = _refused(503, f"{limits.max_waiting} others are being answered: try again later")
        except Exception:  # for example out of memory, or an error of a plugin: log it
            logger.exception("a picture could not be answered")
            response = _refused(500, "something went wrong here; the server's log has it")
        finally:
            in_progress -= 1
            meters.waiting.set(in_progress)
        meters.requests.labels(str(response.status_code)).inc()
        meters.seconds.observe(time.perf_counter() - began)
        return response

    async def answer(request: Request) -> dict[str, object]:
        top = _number(request, "top", 5, MAX_TOP)
        consistent = bool(_number(request, "consistent", 0, 1, least=0))
        data = await _body(request, limits.max_bytes)
        loop = asyncio.get_running_loop()
        try:
            pixels = await loop.run_in_executor(decoders, _pixels, data, classifier, limits.max_pixels)
        except Exception as error:  # damaged pictures fail in many ways
            raise HTTPException(415, f"not a picture: {str(error) or type(error).__name__}") from None
        logits = await batcher.ask(pixels)
        (guesses,) = classifier.guesses(logits.unsqueeze(0), top, consistent)
        return {"arm": classifier.arm, "top": [guess.as_json() for guess in guesses]}

    async def page(request: Request) -> Response:
        text = render(
            "drop.html",
            arm=classifier.arm,
            num_classes=classifier.taxonomy.num_classes,
            num_verticals=classifier.taxonomy.num_verticals,
        )
        return HTMLResponse(text, headers=SAFE)

    async def script(request: Request) -> Response:
        text = resources.files("kcframe.report").joinpath("drop.js").read_text()
        return Response(text, media_type="text/javascript", headers=SAFE)

    async def health(request: Request) -> Response:
        about = {
            "status": "ok",
            "kcframe": kcframe.__version__,
            "arm": classifier.arm,
            "classes": classifier.taxonomy.num_classes,
            "device": str(classifier.device),
        }
        return JSONResponse(about, headers=SAFE)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)

    def other(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return _refused(404, "there is: POST /predict, GET /, GET /healthz, GET /metrics")
        return _refused(error.status_code, error.detail)

    routes = [
        Route("/", page),
        Route("/drop.js", script),
        Route("/predict", predict, methods=["POST"]),
        Route("/healthz", health),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: other})


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: clients can connect. Port 0: any free port. Raises OSError if that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host, port))
        server.listen(BACKLOG)
    except OSError:
        server.close()
        raise
    return server


def _refused(status: int, reason: str) -> Response:
    headers = {**SAFE, "Retry-After": "1"} if status == 503 else SAFE
    return JSONResponse({"error": reason}, status, headers=headers)


def _number(request: Request, name: str, default: int, most: int, least: int = 1) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10) or not least <= int(text) <= most:
        raise HTTPException(400, f"{name}={text[:20]}: should be a whole number from {least} to {most}")
    return int(text)


async def _body(request: Request, max_bytes: int) -> bytes:
    """The request's body. A body that is too large is rejected as early as possible."""
    too_large = HTTPException(413, f"the picture's file is larger than {max_bytes:,} bytes")
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(415, "send the file's bytes themselves, as in: curl --data-binary @FILE URL")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise too_large
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > max_bytes:
            raise too_large
    if not parts:
        raise HTTPException(400, "no picture: send the file's bytes as the request's body")
    return bytes(parts)


def _pixels(data: bytes, classifier: Classifier, max_pixels: int) -> np.ndarray:
    transform = classifier.transform
    picture = decode(data, EVERY_FORMAT, transform.mode, 2 * transform.image_size, max_pixels)
    return transform.pixels(picture)
