"""The bulk request's binary form as its documentation lays it out, written a second time, from that alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.arrays import AnyArray, Floats

HEADER = struct.Struct("<4sHHII")


def encode(
    sessions: Sequence[str],
    chunks: Sequence[Floats],
    at: Sequence[int] | None = None,
    epochs: Sequence[int] | None = None,
    model: str | None = None,
    gaps: bool = False,
    doubles: bool = False,
) -> bytes:
    """A request; chunks [steps, inputs]."""
    lengths = [len(chunk) for chunk in chunks]
    long = any(length != 1 for length in lengths)
    kind = "<f8" if doubles else "<f4"
    flags = (at is not None) | (epochs is not None) << 1 | long << 2 | (model is not None) << 3 | gaps << 4
    flags |= doubles << 5
    parts = [HEADER.pack(b"CYO1", flags, chunks[0].shape[1], len(sessions), 0)]
    parts += [np.array(at, "<i8").tobytes()] if at is not None else []
    parts += [np.array(epochs, "<u8").tobytes()] if epochs is not None else []
    parts += [np.array(lengths, "<u4").tobytes()] if long else []
    parts += [np.asarray(chunk, kind).tobytes() for chunk in chunks]
    parts.append("\n".join([*([model] if model is not None else []), *sessions]).encode())
    return b"".join(parts)


@dataclass
class Answer:
    """An answer, column by column."""

    positions: list[int]
    epochs: list[int]
    predictions: list[Floats]  # [steps, outputs] each
    replayed: list[int]
    errors: dict[str, Any]


def decode(body: bytes) -> Answer:
    """An answer."""
    magic, flags, outputs, count, length = HEADER.unpack_from(body)
    assert magic == b"CYO1"
    assert flags in (0, 32)
    place = HEADER.size

    def take(kind: str, number: int) -> AnyArray:
        nonlocal place
        column = np.frombuffer(body, kind, number, place)
        place += column.nbytes
        return column

    positions, epochs, counts = take("<i8", count), take("<u8", count), take("<u4", count)
    values = np.split(take("<f8" if flags else "<f4", int(counts.sum())), np.cumsum(counts)[:-1])
    replayed = take("u1", count)
    errors = body[place:]
    assert len(errors) == length
    return Answer(
        positions.tolist(),
        epochs.tolist(),
        [value.reshape(-1, outputs or len(value) or 1) for value in values],
        replayed.tolist(),
        json.loads(errors) if errors else {},
    )
