"""A TCP proxy between a client and a server that can go down, or answer as an overloaded server does."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time


class Proxy:
    """Listens on `port` of loopback and passes everything on to the server, unless it is down.

    busy_every, reset_every: of the requests that read something, every so many'th is answered with HTTP 503,
    or its connection is reset; None: none. slow: seconds that each of them waits.
    """

    busy_every: int | None = None
    reset_every: int | None = None
    slow = 0.0

    def __init__(self, host: str, port: int):
        self.target = (host, port)
        self.refused = 0
        self.reads = self.busy = self.resets = 0
        self._count = threading.Lock()
        self._down = False
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def go_down(self, seconds: float) -> None:
        """Cut every connection, and those that come, for a while."""
        self._down = True
        for each in list(self._open):
            self._close(each)
        threading.Timer(seconds, self._come_back).start()

    def _come_back(self) -> None:
        self._down = False

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            if self._down:
                self.refused += 1
                client.close()
                continue
            server = socket.create_connection(self.target)
            self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink, client), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source is client and data.startswith((b"GET ", b"HEAD ")) and self._fails(client):
                    break
                sink.sendall(data)
        self._close(source)
        self._close(sink)

    def _fails(self, client: socket.socket) -> bool:
        """Whether this request is not to reach the server; then its client has been told so."""
        with self._count:
            self.reads += 1
            busy = self.busy_every and self.reads % self.busy_every == 0
            reset = not busy and self.reset_every and self.reads % self.reset_every == 0
            self.busy += bool(busy)
            self.resets += bool(reset)
        time.sleep(self.slow)
        if busy:
            client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        return bool(busy or reset)

    def _close(self, connection: socket.socket) -> None:
        self._open.discard(connection)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
