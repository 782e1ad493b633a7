"""Messages of the sockets: JSON text frames, and binary frames of little-endian float32.

A text message is a chunk's HTTP body with two more fields: `session` on `/stream` (on
`/sessions/{id}/stream` the path names it) and `tag`, any JSON value that comes back with the answer. A
message `{"reset": true}` zeroes the carry, in order with the chunks around it.

A binary message is one chunk:

    offset  type     meaning
    0       u8       length of the session id; 0 on /sessions/{id}/stream
    1       u8       flags: 1 NaN means not observed, 2 the numbers here and in the answer are f64,
                     4 the numbers here are s16 (PCM, 32768 is 1.0), 8 the next u32 is a sampling rate
    2       u16      numbers in an observation
    4       u32      horizon: steps of forecast to add; with flag 8 samples a second
    8       i64      at; -1: none
    16      u64      epoch, the 16 hexadecimal digits as a number; 0: none
    24      bytes    session id, then zeros to a multiple of 4
    ...     f32 | f64 | s16 observations, row after row

The answer has the same layout:

    0       u8       length of the session id, as in the message
    1       u8       flags: 1 replayed, 2 the numbers are f64, 4 what samples are covered follows
    2       u16      numbers in a prediction
    4       u32      number of predictions; the forecast follows them
    8       i64      position after the chunk
    16      u64      epoch
    24      bytes    session id, then zeros to a multiple of 4
    ...     f32 | f64 predictions, then the forecast, row after row
    ...     i64[2]   with flag 4: the position of the first sample that the predictions cover, and the
                     position behind the last
    ...     i64[n,2] with flag 4, to the end: events, 1 speech_start or 0 speech_end, and the position

An error is answered by a text frame, also if the message was binary. Intervals and the surprise are
available in text messages only.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import orjson

from app.codec import answers, chunks
from app.codec.limits import DECODE_ERRORS, Limits, validate_session_id
from app.errors import Malformed, Unprocessable
from app.jobs.answers import ChunkAnswer, epoch_token, parse_epoch
from app.jobs.options import ChunkOptions
from models.arrays import Numbers
from models.forecaster import COVERS, EVENTS

GAPS, DOUBLES, S16, RATE = 1, 2, 4, 8
REPLAYED, COVERED = 1, 4
S16_ONE = 32_768  # what 1.0 is in 16 bits
HEADER = struct.Struct("<BBHIqQ")


class TextMessage(chunks.ChunkFields, kw_only=True):
    """A text message."""

    observations: chunks.Rows | None = None
    session: str | None = None
    tag: msgspec.Raw = msgspec.Raw(b"")
    reset: bool = False


class GappedTextMessage(TextMessage, kw_only=True):
    """The same message, with nulls among the observations."""

    observations: chunks.GappedRows | None = None  # type: ignore[assignment]


_decode = msgspec.json.Decoder(TextMessage).decode
_decode_gapped = msgspec.json.Decoder(GappedTextMessage).decode


class Message(msgspec.Struct, eq=False):
    """A message, decoded and checked. A `Struct` because a dataclass takes twice as long to construct.

    chunk : None for a reset, and for a message that was read with others (`app.codec.plain_messages`)
    tag : JSON; empty when the message has none
    names_session : the message named its session, so the answer names it too
    flat : the observations were bare numbers, and are answered so
    doubles : the numbers of a binary message are float64, and are answered so
    """

    session: str
    chunk: chunks.Chunk | None
    at: int | None
    epoch: int | None
    tag: bytes = b""
    binary: bool = False
    names_session: bool = False
    flat: bool = False
    doubles: bool = False


def decode_text(data: bytes, path_session: str | None, limits: Limits) -> Message:
    """Decode a text message.

    Raises
    ------
    Malformed, Unprocessable, TooLarge : as a chunk over HTTP
    """
    chunks.check_size(data, limits)
    gaps = False
    try:
        fields = _decode(data)
    except DECODE_ERRORS as error:
        fields = chunks.decode_with_gaps(data, error, _decode_gapped)
        gaps = True
    session = _session(fields.session, path_session)
    at = chunks.validate_position(fields.at)
    epoch = None if fields.epoch is None else parse_epoch(fields.epoch)
    if fields.reset:
        if fields.observations is not None or fields.skip is not None or fields.inputs is not None:
            raise Unprocessable("a message is a reset or a chunk, not both", field="reset")
        return Message(session, None, at, epoch, bytes(fields.tag))
    chunk = chunks.validate_chunk(fields.observations, fields, limits, gaps=gaps)
    named = path_session is None
    return Message(session, chunk, at, epoch, bytes(fields.tag), names_session=named, flat=chunk.flat)


def decode_binary(data: bytes, path_session: str | None, limits: Limits) -> Message:
    """Decode a binary message.

    Raises
    ------
    Malformed : the message is not a whole number of observations
    Unprocessable, TooLarge : as a chunk over HTTP
    """
    if len(data) < HEADER.size:
        raise Malformed(f"a binary message has at least {HEADER.size} bytes, this one {len(data)}")
    length, flags, width, horizon, at, number = HEADER.unpack_from(data)
    gaps, doubles = flags & GAPS, bool(flags & DOUBLES)
    if flags & S16 and flags & (GAPS | DOUBLES):
        raise Malformed("numbers of s16 are neither f64, nor can they be missing")
    size = 2 if flags & S16 else 8 if doubles else 4
    start = HEADER.size + -(-length // 4) * 4
    name = data[HEADER.size : HEADER.size + length]
    if not width or len(data) < start or (len(data) - start) % (size * width):
        raise Malformed(
            f"{len(data) - start} bytes are not a whole number of observations of {width} numbers"
        )
    session = _session(name.decode("ascii", "replace") if length else None, path_session)
    observations: Numbers = np.frombuffer(data, f"<{'i' if size == 2 else 'f'}{size}", offset=start)
    observations = observations.reshape(-1, width)
    if doubles:
        observations = observations.astype(np.float64)  # aligned
    elif flags & S16:
        observations = observations.astype(np.float32) / np.float32(S16_ONE)
    chunks.check_observations(observations, limits, gaps=bool(gaps))
    at_, epoch = None if at == -1 else chunks.validate_position(at), number or None
    if flags & RATE:
        rate, horizon = chunks.validate_rate(horizon), 0
    else:
        rate, horizon = None, chunks.validate_horizon(horizon, limits)
    chunk = chunks.Chunk(observations, False, at_, epoch, horizon, None)
    if rate is not None:
        chunk.options = ChunkOptions(gaps=bool(gaps and np.isnan(observations).any()), rate=rate)
    elif gaps and np.isnan(observations).any():
        chunk.options = ChunkOptions(gaps=True)
    named = path_session is None
    return Message(session, chunk, at_, epoch, binary=True, doubles=doubles, names_session=named)


def encode_answer(outcome: ChunkAnswer, message: Message) -> bytes:
    """The answer to a chunk, in the form of its message: JSON or binary."""
    if not message.binary:
        return add_tag(answers.encode_chunk_answer(outcome, message.flat), message.tag)
    name = message.session.encode() if message.names_session else b""
    predictions = outcome.answer["predictions"]
    forecast = outcome.answer.get("forecast")
    covers = outcome.answer.get(COVERS)
    flags = REPLAYED * outcome.replayed | DOUBLES * message.doubles | COVERED * (covers is not None)
    width, steps = predictions.shape[1], len(predictions)
    head = HEADER.pack(len(name), flags, width, steps, outcome.position, outcome.epoch)
    kind = "<f8" if message.doubles else "<f4"
    numbers = [predictions] if forecast is None else [predictions, forecast]
    parts = [part.astype(kind, copy=False).tobytes() for part in numbers]
    if covers is not None:
        of_samples = (covers, outcome.answer.get(EVENTS, np.empty((0, 2))))
        parts += [part.astype("<i8").tobytes() for part in of_samples]
    return b"".join((head, name, b"\0" * (-len(name) % 4), *parts))


def encode_problem(problem: dict[str, Any], message: Message | None) -> bytes:
    """A problem as a text frame."""
    payload = problem if message is None else {"session": message.session} | problem
    return add_tag(orjson.dumps(payload), b"" if message is None else message.tag)


def add_tag(body: bytes, tag: bytes) -> bytes:
    """A JSON object with the client's tag added."""
    return b'%b,"tag":%b}' % (body[:-1], tag) if tag else body


def encode_hello(
    session: str | None, position: int | None, epoch: int | None, limits: dict[str, int]
) -> bytes:
    """The first message of a socket: the position of its session, and the limits of the socket."""
    payload: dict[str, Any] = dict(limits)
    if session is not None:
        payload |= {
            "session": session,
            "position": position,
            "epoch": None if epoch is None else epoch_token(epoch),
        }
    return orjson.dumps(payload)


def encode_frame(data: bytes, *, text: bool) -> bytes:
    """An unmasked frame of a whole message, as a server sends it (RFC 6455, section 5.2)."""
    kind, size = (0x81 if text else 0x82), len(data)
    if size < 126:
        return b"%c%c%b" % (kind, size, data)
    if size < 65_536:
        return struct.pack("!BBH", kind, 126, size) + data
    return struct.pack("!BBQ", kind, 127, size) + data


def _session(name: str | None, path_session: str | None) -> str:
    if path_session is not None:
        if name not in (None, path_session):
            raise Unprocessable(f"this socket belongs to session {path_session!r}", field="session")
        return path_session
    if name is None:
        raise Unprocessable("the message names no session", field="session")
    return validate_session_id(name)
