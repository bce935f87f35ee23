"""How storages are talked to: what is tried again, what is said, and what is not."""

from __future__ import annotations

import http.server
import threading
from collections import Counter

import fsspec
import pytest

from kcframe.errors import DataError
from kcframe.storage.remote import explained, is_there, patiently, read_file, without_secrets


@pytest.fixture(scope="module")
def web():
    """A server: `/STATUS/N/...` answers with STATUS the first N times, and then with a file."""
    asked = Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def _head(self):
            _, status, times, *_ = self.path.split("/")
            asked[self.path] += 1
            failed = asked[self.path] <= int(times)
            self.send_response(int(status) if failed else 200)
            self.send_header("Content-Length", "0" if failed else "5")
            self.end_headers()
            return failed

        do_HEAD = _head

        def do_GET(self):
            if not self._head():
                self.wfile.write(b"hello")

        def log_message(self, *given): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def asked(url, pauses=(0.01,) * 4):
    storage, path = fsspec.url_to_fs(url)
    return patiently(lambda: is_there(storage, path), pauses)


def test_a_busy_server_does_not_say_that_a_file_is_missing(web):
    assert asked(f"{web}/503/0/a")
    assert asked(f"{web}/503/5/b")
    assert not asked(f"{web}/404/99/c")
    assert not asked(f"{web}/410/99/d")
    with pytest.raises(Exception, match="503"):
        asked(f"{web}/503/99/e")
    with pytest.raises(PermissionError, match="403"):
        asked(f"{web}/403/99/f")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, PermissionError), (403, PermissionError), (404, FileNotFoundError), (410, FileNotFoundError)],
)
def test_a_file_that_is_refused_or_gone_is_not_asked_for_again(web, status, kind):
    storage, path = fsspec.url_to_fs(f"{web}/{status}/1/once")
    with pytest.raises(kind):
        patiently(lambda: storage.cat_file(path), (0.01,))
    assert storage.cat_file(path) == b"hello"


def test_nobody_there_is_not_a_missing_file():
    with pytest.raises(Exception, match="Cannot connect"):
        asked("http://127.0.0.1:9/a")


def test_a_file_of_any_storage(tmp_path, web):
    (tmp_path / "a").write_bytes(b"text")
    assert read_file(str(tmp_path / "a"), "x") == b"text"
    assert read_file(f"file://{tmp_path}/a", "x") == b"text"
    assert read_file(f"{web}/503/1/g", "x") == b"hello"
    for url, said in (
        (str(tmp_path / "b"), "data.options.x: no file '.*/b'"),
        (f"{web}/404/99/h?token=hidden", "data.options.x: no file 'http://.*/h'"),
        (str(tmp_path), "cannot be read: IsADirectoryError"),
        ("what://b", "what://b: cannot be read: ValueError: Protocol not known"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            read_file(url, "data.options.x")
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a/b?c", "a/b?c"),
        ("s3://bucket/a?b", "s3://bucket/a?b"),
        ("https://me:secret@host/a?token=secret#x", "https://host/a"),
        ("HTTPS://me:secret@host:80/a?token=secret", "HTTPS://host:80/a"),
        ("https://host?token=secret", "https://host"),
        ("https://host#secret", "https://host"),
        ("http://me:secret@[::1]:80/a?secret", "http://[::1]:80/a"),
        ("simplecache::https://me:secret@host/a?secret", "simplecache::https://host/a"),
        ("zip://a.csv::https://me:secret@host/b.zip?secret", "zip://a.csv::https://host/b.zip"),
        ("zip://*.csv::simplecache::s3://me:secret@b/c", "zip://*.csv::simplecache::s3://b/c"),
        ("https://h/a?secret::simplecache::x", "https://h/a::simplecache::x"),
        ("https://host/a b.tar?token=secret", "https://host/a b.tar"),
        ("https://me:sec'ret@host/a", "https://host/a"),
        ("https://me:se#cret@host/a", "https://host/a"),
        ("https://me:sec/ret@host/a", "https://host/a"),
        ("https://host:80/a@b", "https://host:80/a@b"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
    ],
)
def test_addresses_without_their_secrets(given, shown):
    assert without_secrets(given) == shown


def test_what_an_error_says_has_no_secrets():
    error = ValueError(
        "no ftp://me:secret@host/x, only 'https://host/y?secret' and simplecache::http://h?secret"
    )
    assert explained(error) == (
        "ValueError: no ftp://host/x, only 'https://host/y' and simplecache::http://h"
    )
