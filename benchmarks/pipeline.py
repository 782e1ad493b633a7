"""Sends very many requests through one connection, some of them ahead of their answers."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from itertools import islice

from benchmarks.dialects import HOST
from benchmarks.frames import http_answers
from benchmarks.load import BadRun

AHEAD = 32
TIMEOUT_SECONDS = 60.0


def send_all(port: int, requests: Iterable[bytes]) -> int:
    """Send every request, up to `AHEAD` before an answer, and return how many were answered with a 200.

    Raises
    ------
    BadFrame
        When any answer is something else.
    BadRun
        When the server closes before the last answer.
    """
    source = iter(requests)
    answered = 0
    rest = b""
    with socket.create_connection((HOST, port), timeout=TIMEOUT_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while batch := list(islice(source, AHEAD)):
            connection.sendall(b"".join(batch))
            waiting = len(batch)
            while waiting:
                data = connection.recv(1 << 18)
                if not data:
                    raise BadRun(f"the server closed after {answered} answers")
                answers, rest = http_answers(rest + data)
                waiting -= len(answers)
                answered += len(answers)
    return answered
