"""Frames on the sockets between the workers: a head, and a body that `app.workers.values` has made."""

from __future__ import annotations

import asyncio
import logging
import struct
from enum import IntEnum
from typing import Any

from app.workers.values import encode

log = logging.getLogger("carryover.workers")

MAX_UNREAD_BYTES = 2**28
HEAD = struct.Struct("<IQB")  # bytes of the body, number, kind


class Kind(IntEnum):
    """What a frame is. Its number is that of a job or a question; 0 where it concerns neither."""

    JOB = 0  # for the engine of the worker that owns its sessions
    SEPARATE_JOB = 8  # the same; its chunks need not be answered together
    ANSWER = 1  # to a job or a question
    PART = 9  # `PartAnswer`, to some chunks of a job
    LEFT = 2  # the client of a job has gone
    EVENT = 3  # for the watcher of a job
    UNWATCH = 4  # the watcher of a job has gone
    QUESTION = 5  # for the worker as a whole
    REPORT = 6  # what a worker tells the others several times a second
    ALERTS = 10  # that sessions of the worker have raised or cleared
    FINISHED = 7  # no job will come any more: the worker is stopping


class FrameConnection(asyncio.Protocol):
    """One end of a connection between two workers."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self._size = 0  # bytes of the pieces
        self._needed = HEAD.size  # before anything can be done with them

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Frames can be sent."""
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """No frame comes or goes any more."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Handle the frames that have come in whole."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return
        data = b"".join(self._pieces)
        start = 0
        self._needed = HEAD.size
        while len(data) - start >= HEAD.size:
            size, number, kind = HEAD.unpack_from(data, start)
            end = start + HEAD.size + size
            if end > len(data):
                self._needed = HEAD.size + size
                break
            try:
                self.receive(kind, number, data[start + HEAD.size : end])
            except Exception:
                # The other end drops what it waits for, and its clients send again.
                log.exception("a frame of another worker could not be handled; its connection is closed")
                self.close()
                return
            start = end
        self._pieces, self._size = ([data[start:]], len(data) - start) if start < len(data) else ([], 0)

    def receive(self, kind: int, number: int, body: bytes) -> None:
        """Handle a frame."""
        raise NotImplementedError

    def send(self, kind: Kind, number: int = 0, value: Any = None) -> None:
        """Send a frame; nothing happens if the connection is lost."""
        if self._transport is not None:
            body = encode(value)
            self._transport.write(HEAD.pack(len(body), number, kind) + body)
            if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
                log.error("another worker does not read; its connection is closed")
                self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()
