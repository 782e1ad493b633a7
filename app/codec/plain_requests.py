"""Requests of the plain form, read by the batch: many requests in one compiled call.

The first request of a connection is always parsed by httptools. If it is an ordinary chunk, the connection
keeps its `Head`. A later request of the same connection is plain if it is, byte for byte,

    POST /sessions/{id} + head.before + content length + head.after + a plain body

and nothing else. So no rule about headers is needed here: httptools has judged the same bytes before. What is
not plain must be parsed by httptools, which leads to the answer or to the error.

A plain body is a JSON object of at most `SMALL_BODY_BYTES`, with blanks wherever JSON allows them, and with
each of these keys at most once, in any order, and no others:

| key            | value                                                                                |
|----------------|--------------------------------------------------------------------------------------|
| `observations` | required: a list of numbers, or of lists of numbers of one width; no list is empty   |
| `at`           | 0 to 2**63 - 1, or null                                                              |
| `epoch`        | a token as `app.jobs.answers.epoch_token` writes it, or null                         |

A number is 0, or its magnitude is 1e-30 to 1e37, and it has at most 19 significant digits. A number whose
float32 `app.codec.plain_parser` is not certain of is not plain, either.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.codec.limits import MAX_EXACT_FLOAT32, MAX_SESSION_ID, SESSION_ID, SMALL_BODY_BYTES
from app.codec.plain_parser import FIRST, LENGTH, WIDTH, parse
from models.arrays import Bools, Epochs, Floats, Ints

MAX_HEAD_BYTES = 8192
REQUEST_HEAD = re.compile(
    rb"POST /sessions/(?:%b)(/observations HTTP/1\.1\r\n(?:[!#$%%&'*+\-.^_`|~0-9A-Za-z]+:[ -~]*\r\n)+\r\n)"
    % SESSION_ID.pattern.encode()
)
FIELD = re.compile(rb"([^:\r\n]+):([ -~]*)\r\n")
DIGITS = re.compile(rb" *([0-9]+) *")
ROUTED_FIELDS = frozenset(
    (b"content-encoding", b"expect", b"proxy-connection", b"trailer", b"transfer-encoding", b"upgrade")
)
"""Headers that may change how a request or a body is read."""

ID_BYTES = np.array([SESSION_ID.fullmatch(f"x{chr(byte)}") is not None for byte in range(256)])


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request that httptools accepted, without session id and digits of the content length.

    before : what is between the two
    after : what is behind the digits, with the empty line
    encoded : both, as `app.codec.plain_parser` reads them
    """

    before: bytes
    after: bytes
    encoded: bytes

    @classmethod
    def of(cls, request: bytes) -> Head | None:
        """The head of a request, with or without its body; None if no request can be plain that has it."""
        match = REQUEST_HEAD.match(request, 0, MAX_HEAD_BYTES)
        if match is None:
            return None
        fields = list(FIELD.finditer(request, request.index(b"\n") + 1, match.end() - 2))
        names = [field[1].lower() for field in fields]
        connections = {
            field[2].strip().lower()
            for field, name in zip(fields, names, strict=True)
            if name == b"connection"
        }
        if (
            names.count(b"content-length") != 1
            or not ROUTED_FIELDS.isdisjoint(names)
            or not connections <= {b"keep-alive"}
        ):
            return None
        length = DIGITS.fullmatch(request, *fields[names.index(b"content-length")].span(2))
        if length is None:
            return None
        before, after = request[match.start(1) : length.start(1)], request[length.end(1) : match.end()]
        return cls(before, after, struct.pack("<HH", len(before), len(after)) + before + after)


@dataclass(slots=True)
class PlainRequests:
    """Columns of n requests, in their order.

    plain : [n], whether the request is plain; of the others, the other columns mean nothing
    session_starts, session_ends : [n], where the session id is in `text`
    joined, text : all requests, one after the other
    lengths : [n], observations of the chunk
    widths : [n], numbers in an observation
    flat : [n], the observations were bare numbers, and are answered so
    at : [n], -1: none
    epochs : [n], 0: none
    starts : [n], index in `numbers` of the first number
    numbers : [total], of one request after the other; finite
    width : of every request, if all are plain and of one width; else 0
    """

    plain: Bools
    session_starts: Ints
    session_ends: Ints
    joined: bytes
    text: str
    lengths: Ints
    widths: Ints
    flat: Bools
    at: Ints
    epochs: Epochs
    starts: Ints
    numbers: Floats
    width: int

    def __len__(self) -> int:
        return len(self.plain)

    def select(self, indexes: Ints) -> PlainRequests:
        """The requests at these indexes: plain ones of one width."""
        width = int(self.widths[indexes[0]])
        lengths, starts = self.lengths[indexes], self.starts[indexes]
        pieces = [
            self.numbers[start : start + width * length]
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]
        return PlainRequests(
            self.plain[indexes],
            self.session_starts[indexes],
            self.session_ends[indexes],
            self.joined,
            self.text,
            lengths,
            self.widths[indexes],
            self.flat[indexes],
            self.at[indexes],
            self.epochs[indexes],
            width * (lengths.cumsum() - lengths),
            np.concatenate(pieces),
            width,
        )


def read_plain(
    requests: Sequence[bytes], heads: Sequence[Head], max_steps: int, *, exact: bool = False
) -> PlainRequests:
    """Read those of the requests that are plain.

    Parameters
    ----------
    requests : [n], each all that came in on a connection
    heads : [n], of their connections
    max_steps : observations of the longest chunk that is plain
    exact : a request with a number beyond 2**24 is not plain, because float32 may not hold it

    Raises
    ------
    ValueError : there are not as many heads as requests
    """
    n = len(requests)
    if len(heads) != n:
        raise ValueError(f"{n} requests need as many heads, not {len(heads)}")
    joined = b"".join(requests)
    marks = np.empty((2, n), np.bool_)
    columns = np.empty((7, n), np.int64)
    numbers = np.empty(len(joined) // 2, np.float32)  # a number and what is behind it are 2 bytes or more
    total, width = parse(
        np.frombuffer(joined, np.uint8),
        np.fromiter(map(len, requests), np.int64, n),
        np.frombuffer(b"".join([head.encoded for head in heads]), np.uint8),
        ID_BYTES,
        MAX_SESSION_ID,
        SMALL_BODY_BYTES,
        max_steps,
        marks,
        columns,
        numbers,
    )
    if exact and unmark_inexact(marks[0], columns[FIRST], columns[LENGTH] * columns[WIDTH], numbers[:total]):
        width = 0
    plain, flat = marks
    session_starts, session_ends, lengths, widths, at, epochs, starts = columns
    return PlainRequests(
        plain,
        session_starts,
        session_ends,
        joined,
        joined.decode("latin-1"),
        lengths,
        widths,
        flat,
        at,
        epochs.view(np.uint64),
        starts,
        numbers[:total],
        width,
    )


def unmark_inexact(plain: Bools, starts: Ints, counts: Ints, numbers: Floats) -> bool:
    """Unmark, in place, what has a number that float32 may not hold exactly. Returns whether any has.

    Parameters
    ----------
    plain : [n], whether it is plain; of the others, the columns mean nothing
    starts, counts : [n], where in `numbers` each one's are, and how many
    """
    if not (np.abs(numbers) >= MAX_EXACT_FLOAT32).any():
        return False
    for i in np.flatnonzero(plain).tolist():
        part = numbers[starts[i] : starts[i] + counts[i]]
        plain[i] = not (np.abs(part) >= MAX_EXACT_FLOAT32).any()
    return True
