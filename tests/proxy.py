"""A TCP proxy that can go down: between a client and a server, it makes a network that fails."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Listens on `port` of loopback and passes everything on to the server, unless it is down."""

    def __init__(self, host: str, port: int):
        self.target = (host, port)
        self.refused = 0
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
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        self._close(source)
        self._close(sink)

    def _close(self, connection: socket.socket) -> None:
        self._open.discard(connection)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
