"""Messages of the sockets: JSON text frames, and binary frames of little-endian float32.

A text message is a chunk's HTTP body with two more fields: `session` on `/stream` (on
`/sessions/{id}/stream` the path names it) and `tag`, any JSON value that comes back with the answer. A
message `{"reset": true}` zeroes the carry, in its place among the chunks.

A binary message is one chunk:

    offset  type     meaning
    0       u8       length of the session id; 0 on /sessions/{id}/stream
    1       u8       1: numbers that are NaN were not observed; else 0
    2       u16      numbers in an observation
    4       u32      horizon: steps of forecast to add
    8       i64      at; -1: none
    16      u64      epoch, the 16 hexadecimal digits as a number; 0: none
    24      bytes    session id, then zeros to a multiple of 4
    ...     f32      observations, row after row

and so is its answer:

    0       u8       length of the session id, as in the message
    1       u8       1: replayed, 0: applied
    2       u16      numbers in a prediction
    4       u32      predictions; whatever follows them is the forecast
    8       i64      position behind the chunk
    16      u64      epoch
    24      bytes    session id, then zeros to a multiple of 4
    ...     f32      predictions, then the forecast, row after row

A problem is answered by a text frame, whatever the message was. Intervals and scores are asked for, and
answered, in text.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import orjson

from app.codec import chunks
from app.errors import Malformed, Unprocessable
from app.jobs.answers import Advanced, epoch_of, token
from app.jobs.options import Extras
from app.session.rows import Floats

GAPS = 1
HEADER = struct.Struct("<BBHIqQ")


class Command(chunks.Besides, kw_only=True):
    """A text message."""

    observations: chunks.Rows | None = None
    session: str | None = None
    tag: msgspec.Raw = msgspec.Raw(b"")
    reset: bool = False


class GappedCommand(Command, kw_only=True):
    """The same where observations are missing."""

    observations: chunks.GappedRows | None = None  # type: ignore[assignment]


_decode = msgspec.json.Decoder(Command).decode
_decode_gapped = msgspec.json.Decoder(GappedCommand).decode


class Message(msgspec.Struct, eq=False):
    """What a message asks for: a chunk, or a reset when there is none. A `Struct`: it costs half to make."""

    session: str
    chunk: chunks.Chunk | None
    at: int | None
    epoch: int | None
    tag: bytes = b""  # JSON; empty: none
    binary: bool = False
    named: bool = False  # the message named its session, so does the answer


def text(data: bytes, path_session: str | None, limits: chunks.Limits) -> Message:
    """Decode a text message.

    Raises
    ------
    Malformed, Unprocessable, TooLarge : as a chunk over HTTP
    """
    chunks.check_size(data, limits)
    gaps = False
    try:
        told = _decode(data)
    except chunks.UNDECODABLE as error:
        told = chunks.decoded(data, error, _decode_gapped)
        gaps = True
    session = _session(told.session, path_session)
    at, epoch = chunks.checked_at(told.at), None if told.epoch is None else epoch_of(told.epoch)
    if told.reset:
        if told.observations is not None or told.skip is not None:
            raise Unprocessable("a message is a reset or a chunk, not both", field="reset")
        return Message(session, None, at, epoch, bytes(told.tag))
    chunk = chunks.checked(told.observations, told, limits, gaps=gaps)
    return Message(session, chunk, at, epoch, bytes(told.tag), named=path_session is None)


def binary(data: bytes, path_session: str | None, limits: chunks.Limits) -> Message:
    """Decode a binary message.

    Raises
    ------
    Malformed : lengths that do not add up
    Unprocessable, TooLarge : as a chunk over HTTP
    """
    if len(data) < HEADER.size:
        raise Malformed(f"a binary message has at least {HEADER.size} bytes, this one {len(data)}")
    length, gaps, width, horizon, at, number = HEADER.unpack_from(data)
    start = HEADER.size + -(-length // 4) * 4
    name = data[HEADER.size : HEADER.size + length]
    if not width or len(data) < start or (len(data) - start) % (4 * width):
        raise Malformed(
            f"{len(data) - start} bytes are not a whole number of observations of {width} numbers"
        )
    session = _session(name.decode("ascii", "replace") if length else None, path_session)
    observations: Floats = np.frombuffer(data, "<f4", offset=start).reshape(-1, width)
    chunks.check_finite(observations, limits, gaps=gaps == GAPS)
    at_, epoch = None if at == -1 else chunks.checked_at(at), number or None
    chunk = chunks.Chunk(observations, False, at_, epoch, chunks.checked_horizon(horizon, limits), None)
    if gaps == GAPS and np.isnan(observations).any():
        chunk.extras = Extras(gaps=True)
    return Message(session, chunk, at_, epoch, binary=True, named=path_session is None)


def answered(outcome: Advanced, message: Message) -> bytes:
    """The answer to a chunk, in the kind of frame that it came in."""
    if not message.binary:
        flat = message.chunk is not None and message.chunk.flat
        return tagged(chunks.advanced(outcome, flat), message.tag)
    name = message.session.encode() if message.named else b""
    predictions = outcome.answer["predictions"]
    forecast = outcome.answer.get("forecast")
    head = HEADER.pack(
        len(name), outcome.replayed, predictions.shape[1], len(predictions), outcome.position, outcome.epoch
    )
    padding = b"\0" * (-len(name) % 4)
    return b"".join(
        (head, name, padding, predictions.tobytes(), b"" if forecast is None else forecast.tobytes())
    )


def refused(problem: dict[str, Any], message: Message | None) -> bytes:
    """A problem as a text frame."""
    told = problem if message is None else {"session": message.session} | problem
    return tagged(orjson.dumps(told), b"" if message is None else message.tag)


def tagged(body: bytes, tag: bytes) -> bytes:
    """A JSON object with the client's tag added."""
    return b'%b,"tag":%b}' % (body[:-1], tag) if tag else body


def hello(session: str | None, position: int | None, epoch: int | None, limits: dict[str, int]) -> bytes:
    """The first message of a socket: where its session is, how much may be in flight, what is replayed."""
    told: dict[str, Any] = dict(limits)
    if session is not None:
        told |= {"session": session, "position": position, "epoch": None if epoch is None else token(epoch)}
    return orjson.dumps(told)


def framed(data: bytes, *, text: bool) -> bytes:
    """A whole, unmasked frame, as a server sends it (RFC 6455, section 5.2)."""
    kind, size = (0x81 if text else 0x82), len(data)
    if size < 126:
        return b"%c%c%b" % (kind, size, data)
    if size < 65_536:
        return struct.pack("!BBH", kind, 126, size) + data
    return struct.pack("!BBQ", kind, 127, size) + data


def _session(told: str | None, path_session: str | None) -> str:
    if path_session is not None:
        if told not in (None, path_session):
            raise Unprocessable(f"this socket is of session {path_session!r}", field="session")
        return path_session
    if told is None:
        raise Unprocessable("the message names no session", field="session")
    return chunks.session_id(told)
