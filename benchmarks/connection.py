"""One kept-alive connection for the requests around a run: those that open the sessions and judge them."""

from __future__ import annotations

import http.client
import socket
from types import TracebackType

from benchmarks.dialects import HOST
from benchmarks.load import BadRun

TIMEOUT_SECONDS = 30.0


class Connection:
    """Sends ready-made requests one at a time and insists on a 200."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> bytes:
        """Return the body of the answer.

        Raises
        ------
        BadRun
            When the status is not 200.
        """
        self._socket.sendall(request)
        response = http.client.HTTPResponse(self._socket, method="POST")
        response.begin()
        body = response.read()
        if response.status != 200:
            raise BadRun(f"status {response.status}: {body[:500]!r}")
        return body

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
