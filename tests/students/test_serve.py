"""`kcframe serve`, a real server on loopback: answers, refusals, load."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import aiohttp
import pytest
import uvicorn
from PIL import Image

import kcframe
from kcframe.errors import ServeError
from kcframe.students.batcher import Batcher, Full
from kcframe.students.serve import Limits, listen, make_app


@contextmanager
def served(classifier, **limits):
    """The port of a server in a thread."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(make_app(classifier, Limits(**limits)), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def classifier(finished):
    return kcframe.load(finished)


@pytest.fixture(scope="module")
def port(classifier):
    with served(classifier, max_bytes=20_000) as port:
        yield port


def ask(port, method, path, body=None, headers=None):
    """(status, content type, headers, text)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, response.headers, text


def refused(port, status, path="/predict", body=None, headers=None, method="POST"):
    """The reason that is given."""
    found, answer_headers, text = ask(port, method, path, body, headers)
    assert found == status, text
    assert answer_headers["content-type"] == "application/json"
    return json.loads(text)["error"]


def test_it_says_what_predict_says(classifier, port, pictures):
    file = pictures / "test/kite/1.png"
    status, headers, text = ask(port, "POST", "/predict?top=3&consistent=1", file.read_bytes())
    assert status == 200
    found = json.loads(text)
    expected = classifier.predict([file], top=3, consistent=True)[0]
    assert found["arm"] == classifier.arm
    assert [top["class"] for top in found["top"]] == [guess.name for guess in expected]
    for top, guess in zip(found["top"], expected, strict=True):
        assert top["probability"] == pytest.approx(guess.probability, abs=1e-5)
        assert top["parents"] == [
            {"class": name, "probability": pytest.approx(p, abs=1e-5)} for name, p in guess.parents
        ]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("status", "path", "body", "reason"),
    [
        (400, "/predict", b"", "no picture: send the file's bytes"),
        (400, "/predict?top=0", b"x", "top=0: should be a whole number from 1 to 100"),
        (400, "/predict?top=many", b"x", "top=many: should be"),
        (400, "/predict?top=" + "9" * 5000, b"x", "top=99999999999999999999: should be"),
        (400, "/predict?consistent=2", b"x", "consistent=2: should be a whole number from 0 to 1"),
        (415, "/predict", b"<!doctype html>", "not a picture: it is an HTML page"),
        (415, "/predict", b"\x80\x04cposix\nsystem\n", "not a picture: it is none of"),
        (413, "/predict", b"x" * 20_001, "larger than 20,000 bytes"),
        (404, "/nowhere", b"x", "there is: POST /predict, GET /"),
    ],
)
def test_bad_requests_are_told_why(port, status, path, body, reason):
    assert reason in refused(port, status, path, body)


def test_methods_and_forms_are_told_why(port):
    assert "Method Not Allowed" in refused(port, 405, method="GET")
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert "--data-binary" in refused(port, 415, body=b"--x--", headers=headers)


def test_a_body_that_says_nothing_of_its_length_ends_at_the_limit(port):
    """Chunked, without end: the answer comes before the body is over."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        for _ in range(6):
            client.sendall(chunk)
        assert client.recv(4096).startswith(b"HTTP/1.1 413")


def test_decompression_bombs_are_refused(classifier):
    image = Image.new("1", (10_000, 10_000))  # 20 kB of it
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=9)
    with served(classifier) as port:
        assert "10000x10000 pixels are more than the" in refused(port, 415, body=buffer.getvalue())


def test_health_metrics_and_page(classifier, port):
    status, _, text = ask(port, "GET", "/healthz")
    assert (status, json.loads(text)["classes"]) == (200, 7)
    before = _counts(port)
    ask(port, "POST", "/predict", b"no picture")
    after = _counts(port)
    assert (
        after['kcframe_requests_total{status="415"}']
        == before.get('kcframe_requests_total{status="415"}', 0) + 1
    )
    assert after["kcframe_request_seconds_count"] == before["kcframe_request_seconds_count"] + 1
    status, headers, text = ask(port, "GET", "/")
    assert status == 200
    assert classifier.arm in text
    assert "script-src 'self'" in headers["content-security-policy"]
    assert ask(port, "GET", "/drop.js")[1]["content-type"].startswith("text/javascript")


def _counts(port):
    lines = ask(port, "GET", "/metrics")[2].splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}


def test_many_clients_get_each_their_own_answer(classifier, pictures):
    """In batches, and each the answer to its own picture."""
    files = sorted((pictures / "test").glob("*/*.png"))
    expected = [[guess.name for guess in guesses] for guesses in classifier.predict(files)]

    async def client(session, url, number):
        answers = []
        for turn in range(4):
            place = (number + turn) % len(files)
            async with session.post(url, data=files[place].read_bytes()) as response:
                found = await response.json()
                answers.append([top["class"] for top in found["top"]] == expected[place])
        return answers

    async def everyone(port):
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/predict"
            return await asyncio.gather(*(client(session, url, number) for number in range(20)))

    with served(classifier, batch=8) as port:
        answers = asyncio.run(everyone(port))
        counts = _counts(port)
    assert all(all(row) for row in answers)
    assert counts["kcframe_batch_pictures_sum"] == 80
    assert counts["kcframe_batch_pictures_count"] < 80
    assert counts['kcframe_batch_pictures_bucket{le="8.0"}'] == counts["kcframe_batch_pictures_count"]


class Slow:
    """A classifier that works when it is let."""

    def __init__(self, classifier):
        self.classifier, self.may_work = classifier, threading.Event()

    def __getattr__(self, name):
        return getattr(self.classifier, name)

    def logits(self, images):
        self.may_work.wait(20)
        return self.classifier.logits(images)


def test_who_waits_too_long_and_who_is_too_many_are_sent_away(classifier, pictures):
    slow, body = Slow(classifier), (pictures / "test/mug/0.png").read_bytes()
    with served(slow, max_seconds=1.5, max_waiting=3, batch=1) as port:
        answers = []
        clients = [
            threading.Thread(target=lambda: answers.append(ask(port, "POST", "/predict", body)))
            for _ in range(4)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        slow.may_work.set()
        assert {status for status, _, _ in answers} == {503}
        assert all(headers["retry-after"] == "1" for _, headers, _ in answers)
        reasons = " ".join(json.loads(text)["error"] for _, _, text in answers)
        assert "took longer than 1.5 seconds" in reasons
        assert "3 others are being answered" in reasons
        # And then it answers again.
        deadline = time.monotonic() + 20
        while (status := ask(port, "POST", "/predict", body)[0]) != 200:
            assert time.monotonic() < deadline, status


def test_what_goes_wrong_inside_is_counted_and_nobodys_business(classifier, pictures, caplog):
    class Broken(Slow):
        def logits(self, images):
            raise RuntimeError("CUDA out of memory, at /home/secret")

    body = (pictures / "test/mug/0.png").read_bytes()
    with served(Broken(classifier)) as port:
        assert refused(port, 500, body=body) == "something went wrong here; the server's log has it"
        assert _counts(port)['kcframe_requests_total{status="500"}'] == 1
        assert _counts(port)["kcframe_requests_in_progress"] == 0
    assert "CUDA out of memory" in caplog.text


# -- the command -----------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_stopped(finished, pictures):
    command = [sys.executable, "-m", "kcframe", "serve", f"{finished}:paced", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        assert first.startswith("paced, 7 classes: http://127.0.0.1:")
        port = int(first.rpartition(":")[2])
        assert ask(port, "POST", "/predict", (pictures / "test/owl/0.png").read_bytes())[0] == 200
        # The port is taken now.
        again = [*command[:-1], str(port)]
        done = subprocess.run(again, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"error: 127.0.0.1:{port}: cannot be listened on: Address already in use" in done.stderr
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert "Traceback" not in err
        assert process.returncode in (0, 130)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)


def test_bench_serve_compares_both_ways(finished, tmp_path):
    from click.testing import CliRunner

    from kcframe.cli.main import cli

    out = tmp_path / "f.json"
    arguments = ["--clients", "4", "--seconds", "0.5", "--rounds", "1", "--json", str(out)]
    done = CliRunner().invoke(cli, ["bench", "serve", str(finished), *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(out.read_text())
    assert [row["way"] for row in found["rows"]] == ["batching", "one by one"]
    for row in found["rows"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["images_per_second"] == pytest.approx(row["requests"] / 0.5)


def test_bench_serve_needs_a_few_answers(finished):
    from kcframe.cli.bench.serve import bench_serve

    with pytest.raises(ServeError, match="answers in 0.001 seconds are too few: give more --seconds"):
        bench_serve(str(finished), 1, 0.001, 1, 8, device="cpu")


def test_bench_serve_says_when_nothing_is_served(tmp_path):
    from kcframe.cli.bench.serve import _served

    with pytest.raises(ServeError, match="did not start"), _served(str(tmp_path), 1, 1, "cpu"):
        pass


# -- the batcher -----------------------------------------------------------------------------------


async def batches(items, work, size=3, max_waiting=100):
    batcher = Batcher(work, size, max_waiting)
    await batcher.start()
    try:
        return await asyncio.gather(*(batcher.ask(item) for item in items), return_exceptions=True)
    finally:
        await batcher.stop()


def test_batches_are_no_larger_than_asked_and_answers_find_their_askers():
    seen = []

    def work(items):
        seen.append(list(items))
        time.sleep(0.01)
        return [item * 10 for item in items]

    assert asyncio.run(batches(range(10), work)) == [n * 10 for n in range(10)]
    assert [item for batch in seen for item in batch] == list(range(10))
    assert max(map(len, seen)) == 3


def test_one_bad_batch_is_told_to_its_own_clients():
    def work(items):
        time.sleep(0.01)
        if 2 in items:
            raise ValueError("two")
        return list(items)

    found = asyncio.run(batches(range(4), work, size=1))
    assert [str(answer) for answer in found] == ["0", "1", "two", "3"]


def test_more_than_may_wait_are_refused_at_once():
    found = asyncio.run(batches(range(5), lambda items: list(items), max_waiting=2))
    assert [type(answer) for answer in found] == [int, int, Full, Full, Full]


def test_who_has_gone_is_not_worked_for():
    seen = []

    async def go():
        release = threading.Event()

        def work(items):
            release.wait(20)
            seen.extend(items)
            return list(items)

        batcher = Batcher(work, 1, 10)
        await batcher.start()
        first, gone, last = (asyncio.create_task(batcher.ask(item)) for item in ("first", "gone", "last"))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0)
        release.set()
        assert await first == "first"
        assert await last == "last"
        await batcher.stop()

    asyncio.run(go())
    assert seen == ["first", "last"]


def test_who_waits_while_it_stops_is_sent_away():
    async def go():
        release = threading.Event()

        def work(items):
            release.wait(20)
            return list(items)

        batcher = Batcher(work, 1, 10)
        await batcher.start()
        waiting = [asyncio.create_task(batcher.ask(item)) for item in range(3)]
        await asyncio.sleep(0.05)
        await batcher.stop()
        release.set()
        found = await asyncio.gather(*waiting, batcher.ask(9), return_exceptions=True)
        assert [type(answer) for answer in found] == [Full] * 4

    asyncio.run(asyncio.wait_for(go(), 20))


def test_a_batch_with_too_few_answers_ends_nothing():
    answers = [[], ["b"]]
    found = asyncio.run(batches("ab", lambda items: answers.pop(0), size=1))
    assert isinstance(found[0], ValueError)
    assert found[1] == "b"
