"""The binary form of a bulk request and its answer: little-endian columns, one after another.

A request of `n` sessions:

    offset      type      meaning
    0           4 bytes   "CYO1"
    4           u16       flags: 1 has `at`, 2 has `epochs`, 4 has `lengths`, 8 names a model,
                          16 NaN means not observed, 32 the observations, and the predictions of
                          the answer, are f64
    6           u16       inputs: numbers in an observation
    8           u32       n
    12          u32       0
    16          i64[n]    at, if flag 1: the position that the client expects; -1 for none
    ...         u64[n]    epochs, if flag 2: the 16 hexadecimal digits as a number; 0 for none
    ...         u32[n]    lengths, if flag 4: observations of each chunk; without it, one each
    ...         f32 | f64 observations, chunk after chunk, row after row
    ...         bytes     session ids separated by newlines, to the end; if flag 8, the model's name first

The answer:

    0           4 bytes   "CYO1"
    4           u16       flags: 32 the predictions are f64, 64 has `covers`, 128 has `events`
    6           u16       outputs: numbers in a prediction; 0 where the sessions' models differ
    8           u32       n
    12          u32       size of the errors in bytes
    16          i64[n]    position after each chunk; -1 where it was refused
    ...         u64[n]    epochs; 0 where refused
    ...         i64[n, 2] covers, if flag 64, of models over samples: the position of the first sample that
                          the predictions cover, and the position behind the last; -1 for other sessions
    ...         i64[n]    how many events each chunk has, if flag 128
    ...         i64[m, 2] events of all chunks, if flag 128: 1 speech_start or 0 speech_end; the position
    ...         u32[n]    counts: numbers predicted for each chunk, steps times outputs; 0 where refused
    ...         f32 | f64 predictions, chunk after chunk, row after row
    ...         u8[n]     1 where the chunk had been applied before and this is its stored answer, else 0
    ...         bytes     errors: a JSON object of problems by index, such as {"17": {...}}; empty if none

Every column begins at a multiple of its item size, so that it can be used without a copy; one of f64, at a
multiple of 4. Whole numbers beyond 2**24 need f64.
"""

from __future__ import annotations

import struct

import numpy as np
import orjson

from app.codec.bulk.request import (
    BulkLimits,
    BulkRequest,
    build_request,
    check_column_length,
    check_session_count,
)
from app.codec.bulk.session_ids import read_lines
from app.codec.limits import validate_model_name
from app.codec.problems import problem
from app.errors import CarryoverError, Malformed
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import AdvanceMany
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from models.arrays import AnyArray, Numbers
from models.forecaster import COVERS, EVENTS

CONTENT_TYPE = "application/octet-stream"
HEADER = struct.Struct("<4sHHII")
MAGIC = b"CYO1"
AT, EPOCHS, LENGTHS, MODEL, GAPS, DOUBLES, COVERED, EVENTFUL = 1, 2, 4, 8, 16, 32, 64, 128


def decode(body: bytes, limits: BulkLimits) -> BulkRequest:
    """Decode a request.

    Raises
    ------
    Malformed : the bytes do not have this layout
    Unprocessable, TooLarge : the whole request is refused
    """
    if len(body) < HEADER.size:
        raise Malformed(f"the header of a bulk request has {HEADER.size} bytes, this body has {len(body)}")
    magic, flags, inputs, count, reserved = HEADER.unpack_from(body)
    if magic != MAGIC or flags > (AT | EPOCHS | LENGTHS | MODEL | GAPS | DOUBLES) or reserved or not inputs:
        raise Malformed("invalid header of a bulk request: see the binary layout in the documentation")
    check_session_count(count, limits)
    reader = _Reader(body)
    at = reader.take("<i8", count, "at") if flags & AT else None
    epochs = reader.take("<u8", count, "epochs") if flags & EPOCHS else None
    lengths, total = np.ones(count, np.int64), count
    if flags & LENGTHS:
        lengths = reader.take("<u4", count, "lengths").astype(np.int64)
        total = int(lengths.sum())  # cannot overflow: at most 10,000 lengths of 2**32
    kind = "<f8" if flags & DOUBLES else "<f4"
    observations: Numbers = reader.take(kind, total * inputs, "observations").reshape(total, inputs)
    if flags & DOUBLES:
        observations = observations.astype(np.float64)  # aligned
    ids, model = reader.rest(), None
    if flags & MODEL:
        name, _, ids = ids.partition(b"\n")
        model = name.decode("ascii")
    sessions = read_lines(ids, count)
    if sessions is None:
        check_column_length("session ids", ids.count(b"\n") + 1, count)  # before a million strings are made
        sessions = SessionList(ids.decode("ascii").split("\n"))
    columns = AdvanceMany(sessions, observations, lengths, at, epochs, validate_model_name(model))
    if flags & GAPS and np.isnan(observations).any():
        columns.options = ChunkOptions(gaps=True)
    request = build_request(columns, limits)
    request.doubles = bool(flags & DOUBLES)
    return request


def encode(answer: BulkAnswer, request: BulkRequest) -> bytes:
    """Encode an answer."""
    count = request.count
    counts = (answer.steps * answer.outputs).astype("<u4")
    errors = problems(answer.errors)
    outputs = answer.outputs if isinstance(answer.outputs, int) else 0
    replayed = np.zeros(count, np.uint8)
    replayed[answer.replayed] = 1
    covers, events = _covers(answer), _events(answer)
    flags = DOUBLES * request.doubles | COVERED * bool(covers) | EVENTFUL * bool(events)
    return b"".join(
        (
            HEADER.pack(MAGIC, flags, outputs, count, len(errors)),
            answer.positions.astype("<i8", copy=False).tobytes(),
            answer.epochs.astype("<u8", copy=False).tobytes(),
            covers,
            events,
            counts.tobytes(),
            answer.predictions.astype("<f8" if request.doubles else "<f4", copy=False).tobytes(),
            replayed.tobytes(),
            errors,
        )
    )


def problems(errors: dict[int, CarryoverError]) -> bytes:
    """Problems by index, as JSON; empty when there are none."""
    return orjson.dumps({str(i): problem(error)[1] for i, error in errors.items()}) if errors else b""


def _covers(answer: BulkAnswer) -> bytes:
    """Of each chunk the samples that its predictions cover; empty where no chunk is of samples."""
    found = answer.extra_outputs.get(COVERS)
    if not found:
        return b""
    covers = np.full((len(answer.positions), 2), -1, "<i8")
    for i, numbers in found.items():
        covers[i] = numbers[0]
    return covers.tobytes()


def _events(answer: BulkAnswer) -> bytes:
    """How many events each chunk has, and the events; empty where no chunk has any."""
    found = answer.extra_outputs.get(EVENTS, {})
    counts = np.zeros(len(answer.positions), "<i8")
    for i, events in found.items():
        counts[i] = len(events)
    if not counts.any():
        return b""
    return counts.tobytes() + np.concatenate([found[i] for i in sorted(found)]).astype("<i8").tobytes()


class _Reader:
    """Takes one column after another from a body, and refuses to read beyond its end."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = HEADER.size

    def take(self, kind: str, count: int, what: str) -> AnyArray:
        size = np.dtype(kind).itemsize * count
        if size > len(self._body) - self._at:
            raise Malformed(f"the body ends within its {what}")
        column = np.frombuffer(self._body, kind, count, self._at)
        self._at += size
        return column

    def rest(self) -> bytes:
        rest = self._body[self._at :]
        if not rest.isascii():
            raise Malformed("the session ids are not ASCII")
        return rest
