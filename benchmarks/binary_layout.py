"""Carryover's binary forms, as its documentation lays them out byte by byte: little-endian throughout."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from benchmarks.streams import Array

BINARY = "application/octet-stream"
MESSAGE = struct.Struct("<BBHIqQ")
"""Length of the session's name, flag, numbers in a row, count, position, epoch."""
BULK = struct.Struct("<4sHHII")
"""Magic, flags, numbers in a row, sessions, bytes of errors in an answer."""
MAGIC, LENGTHS = b"CYO1", 4
NO_POSITION, NO_EPOCH, NO_HORIZON = -1, 0, 0


def encode_bulk(sessions: Sequence[str], chunks: Sequence[Array]) -> bytes:
    """Return the body of a binary ``POST /observations``: a chunk [steps] for each session."""
    lengths = np.array([len(chunk) for chunk in chunks], "<u4")
    several = bool((lengths != 1).any())
    head = BULK.pack(MAGIC, LENGTHS if several else 0, 1, len(sessions), 0)
    lengths_bytes = lengths.tobytes() if several else b""
    return (
        head + lengths_bytes + np.concatenate(chunks).astype("<f4").tobytes() + "\n".join(sessions).encode()
    )


def decode_bulk(body: bytes) -> list[Array]:
    """Return the predictions [steps] of each session from the answer to `encode_bulk`."""
    _, _, _, sessions, _ = BULK.unpack_from(body)
    counts = np.frombuffer(body, "<u4", sessions, BULK.size + 16 * sessions)  # behind positions and epochs
    numbers = np.frombuffer(body, "<f4", int(counts.sum()), BULK.size + 20 * sessions)
    return np.split(numbers.astype(np.float64), np.cumsum(counts)[:-1])


def encode_message(session: str | None, chunk: Array) -> bytes:
    """Return the binary frame of a chunk [steps]; the session is named on a shared socket only."""
    name = (session or "").encode()
    head = MESSAGE.pack(len(name), 0, 1, NO_HORIZON, NO_POSITION, NO_EPOCH)
    return head + name + _padding(len(name)) + chunk.astype("<f4").tobytes()


def decode_message(payload: bytes) -> tuple[str, Array]:
    """Return the session that an answer names, empty when none, and its predictions [steps]."""
    length, _, _, count, _, _ = MESSAGE.unpack_from(payload)
    name = payload[MESSAGE.size : MESSAGE.size + length].decode()
    start = MESSAGE.size + length + len(_padding(length))
    return name, np.frombuffer(payload, "<f4", count, start).astype(np.float64)


def _padding(length: int) -> bytes:
    return bytes(-length % 4)
