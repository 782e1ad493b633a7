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

A number has at most `MAX_DIGITS` significant digits. It is 0, or its magnitude is `SMALLEST` to `LARGEST`.
Its float32 is always the one that `app.codec.chunks` gives, which is that of the correctly rounded double:

- With digits up to 2**53 and at most 22 powers of ten, a single operation makes the double, which is
  therefore correctly rounded (Clinger, How to read floating point numbers accurately, 1990).
- Otherwise the double differs from that one by at most 2**-51 of it: that one is rounded once, this one three
  times. If `MARGIN` below it and above it the float32 is the same, it is the same between them, because rounding
  is monotone. If it is not, which is to be expected of about one in 2**25 numbers, the request is not plain.

The bytes may be hostile: no byte is read behind the end of its request, and the effort is linear.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.codec.limits import MAX_SESSION_ID, SESSION_ID, SMALL_BODY_BYTES
from models.arrays import Bools, Bytes, Epochs, Floats, Ints
from models.jit import INT, contiguous, jit, jit_part, readonly_contiguous

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
    encoded : both, as `_read` reads them
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
    text : all requests, one after the other
    lengths : [n], observations of the chunk
    widths : [n], numbers in an observation
    flat : [n], the observations were bare numbers, and are answered so
    at : [n], -1: none
    epochs : [n], 0: none
    starts : [n], index in `numbers` of the first number
    numbers : [total], of one request after the other; finite
    """

    plain: Bools
    session_starts: Ints
    session_ends: Ints
    text: str
    lengths: Ints
    widths: Ints
    flat: Bools
    at: Ints
    epochs: Epochs
    starts: Ints
    numbers: Floats


def read_plain(requests: Sequence[bytes], heads: Sequence[Head], max_steps: int) -> PlainRequests:
    """Read those of the requests that are plain.

    Parameters
    ----------
    requests : [n], each all that came in on a connection
    heads : [n], of their connections
    max_steps : observations of the longest chunk that is plain

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
    total = _read(
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
    plain, flat = marks
    session_starts, session_ends, lengths, widths, at, epochs, starts = columns
    return PlainRequests(
        plain,
        session_starts,
        session_ends,
        joined.decode("latin-1"),
        lengths,
        widths,
        flat,
        at,
        epochs.view(np.uint64),
        starts,
        numbers[:total],
    )


# What is compiled. A function gets the index at which it begins, and returns the index behind what it read.
# What is not plain gives FAIL, which is so far below 0 that it stays negative when the length of a word is
# added. From a negative index nothing is read, and what is returned for it is negative, too.

FAIL = -(2**32)
START, END, LENGTH, WIDTH, AT, EPOCH, FIRST = range(7)  # the rows of `columns`
REQUEST = np.frombuffer(b"POST /sessions/", np.uint8)
OBSERVATIONS_KEY = np.frombuffer(b'"observations"', np.uint8)
AT_KEY = np.frombuffer(b'"at"', np.uint8)
EPOCH_KEY = np.frombuffer(b'"epoch"', np.uint8)
NULL = np.frombuffer(b"null", np.uint8)
TAB, NEWLINE, RETURN, BLANK, QUOTE, COLON, COMMA, POINT, PLUS, MINUS, ZERO, NINE = b'\t\n\r ":,.+-09'
OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT, LOWER_A, LOWER_E, LOWER_F, UPPER_E = b"[]{}aefE"

MAX_DIGITS = 19  # a uint64 holds any number of so many
MAX_EXPONENT_DIGITS = 4
MAX_LENGTH_DIGITS = 7
EPOCH_DIGITS = 16
MAX_AT = np.uint64(2**63 - 1)
EXACT = np.uint64(2**53)  # up to which every integer is a double
EXACT_POWER = 22  # up to which every power of ten is a double
SMALLEST, LARGEST = 1e-30, 1e37
MARGIN = 2.0**-50  # relative; see above
TEN = np.uint64(10)


@jit_part
def _byte(text: Bytes, i: int, end: int) -> int:
    """The byte at an index; 0, which is nowhere in a plain request, outside of the request."""
    return np.int64(text[i]) if 0 <= i < end else 0  # type: ignore[return-value]


@jit_part
def _skip_blanks(text: Bytes, i: int, end: int) -> int:
    byte = _byte(text, i, end)
    while byte in (BLANK, NEWLINE, RETURN, TAB):
        i += 1
        byte = _byte(text, i, end)
    return i


@jit_part
def _match(text: Bytes, i: int, end: int, expected: Bytes, start: int, size: int) -> int:
    """Bytes that are equal to `size` bytes of `expected`."""
    if i < 0 or end - i < size:
        return FAIL
    different = 0
    for k in range(size):  # to the end in any case: this is compiled to a few wide instructions
        different |= text[i + k] ^ expected[start + k]
    return FAIL if different else i + size


@jit_part
def _digits(text: Bytes, i: int, end: int, value: np.uint64) -> tuple[int, np.uint64]:
    """Any number of digits, appended to those of `value`, which wraps around."""
    digit = _byte(text, i, end) - ZERO
    while 0 <= digit <= 9:
        value = value * TEN + np.uint64(digit)
        i += 1
        digit = _byte(text, i, end) - ZERO
    return i, value


@jit_part
def _integer(text: Bytes, i: int, end: int, most: int) -> tuple[int, np.uint64]:
    """An integer of 1 to `most` digits, without a sign."""
    behind, value = _digits(text, i, end, np.uint64(0))
    digits = behind - i
    if digits == 0 or digits > most or (digits > 1 and text[i] == ZERO):
        return FAIL, value
    return behind, value


@jit_part
def _fraction(text: Bytes, i: int, end: int, value: np.uint64, digits: int) -> tuple[int, np.uint64]:
    """The digits behind the point, appended to the significant digits of `value`."""
    start = i
    if digits == 0:
        while _byte(text, i, end) == ZERO:
            i += 1
    behind, value = _digits(text, i, end, value)
    if behind == start or digits + behind - i > MAX_DIGITS:
        return FAIL, value
    return behind, value


@jit_part
def _exponent(text: Bytes, i: int, end: int) -> tuple[int, int]:
    sign = _byte(text, i, end)
    if sign in (MINUS, PLUS):
        i += 1
    behind, size = _digits(text, i, end, np.uint64(0))
    if behind == i or behind - i > MAX_EXPONENT_DIGITS:
        return FAIL, 0
    exponent = np.int64(size)
    return behind, -exponent if sign == MINUS else exponent  # type: ignore[return-value]


@jit_part
def _power(exponent: int) -> float:
    """`10.0**exponent`, exact up to `EXACT_POWER`. A table would be copied at each use in a cached result."""
    power = 10.0 if exponent & 1 else 1.0
    power *= 1e2 if exponent & 2 else 1.0
    power *= 1e4 if exponent & 4 else 1.0
    power *= 1e8 if exponent & 8 else 1.0
    return power * 1e16 if exponent & 16 else power


@jit_part
def _scale(mantissa: np.uint64, exponent: int) -> tuple[float, bool]:
    """`mantissa * 10**exponent`, not 0, and whether its float32 is certain."""
    value = float(mantissa)
    size = abs(exponent)
    if size > 2 * EXACT_POWER:
        return 0.0, False
    power = _power(min(size, EXACT_POWER))
    value = value / power if exponent < 0 else value * power
    if size > EXACT_POWER:
        power = _power(size - EXACT_POWER)
        value = value / power if exponent < 0 else value * power
    exact = mantissa <= EXACT and size <= EXACT_POWER  # rounded once, so correctly
    certain = np.float32(value * (1.0 - MARGIN)) == np.float32(value * (1.0 + MARGIN))
    return value, (exact or certain) and SMALLEST <= value <= LARGEST


@jit_part
def _number(text: Bytes, i: int, end: int) -> tuple[int, float]:
    negative = _byte(text, i, end) == MINUS
    if negative:
        i += 1
    behind, mantissa = _integer(text, i, end, MAX_DIGITS)
    digits = behind - i if mantissa else 0
    exponent = 0
    is_integer = True
    if _byte(text, behind, end) == POINT:
        is_integer = False
        i = behind + 1
        behind, mantissa = _fraction(text, i, end, mantissa, digits)
        exponent = i - behind
    byte = _byte(text, behind, end)
    if byte in (LOWER_E, UPPER_E):
        is_integer = False
        behind, scale = _exponent(text, behind + 1, end)
        exponent += scale
    if behind < 0:
        return FAIL, 0.0
    if mantissa == 0:  # msgspec reads -0 as the integer 0, but -0.0 and -0e0 as -0.0
        return behind, -0.0 if negative and not is_integer else 0.0
    value, certain = _scale(mantissa, exponent)
    return behind if certain else FAIL, -value if negative else value


@jit_part
def _row(text: Bytes, i: int, end: int, numbers: Floats, total: int) -> tuple[int, int]:
    """A list of numbers, which go into `numbers` from `total` on; returns the new total, too."""
    while True:
        i, number = _number(text, _skip_blanks(text, i + 1, end), end)  # from behind the bracket or the comma
        if i < 0:
            return FAIL, total
        numbers[total] = number
        total += 1
        i = _skip_blanks(text, i, end)
        byte = _byte(text, i, end)
        if byte == CLOSE_LIST:
            return i + 1, total
        if byte != COMMA:
            return FAIL, total


@jit_part
def _rows(text: Bytes, i: int, end: int, max_steps: int, numbers: Floats, total: int) -> tuple[int, int, int]:
    """Lists of numbers behind a bracket; returns how many they are, and their width."""
    length = width = 0
    while length < max_steps and _byte(text, i, end) == OPEN_LIST:
        start = total
        i, total = _row(text, i, end, numbers, start)
        if length > 0 and total - start != width:
            return FAIL, length, width
        width = total - start
        length += 1
        i = _skip_blanks(text, i, end)
        byte = _byte(text, i, end)
        if byte == CLOSE_LIST:
            return i + 1, length, width
        if byte != COMMA:
            return FAIL, length, width
        i = _skip_blanks(text, i + 1, end)
    return FAIL, length, width


@jit_part
def _observations(
    text: Bytes, i: int, end: int, max_steps: int, numbers: Floats, first: int
) -> tuple[int, int, int, bool]:
    """The observations; returns how many they are, their width, and whether they are bare numbers."""
    if _byte(text, i, end) != OPEN_LIST:
        return FAIL, 0, 0, False
    inner = _skip_blanks(text, i + 1, end)
    if _byte(text, inner, end) == OPEN_LIST:
        i, length, width = _rows(text, inner, end, max_steps, numbers, first)
        return i, length, width, False
    i, total = _row(text, i, end, numbers, first)
    length = total - first
    return i if length <= max_steps else FAIL, length, 1, True


@jit_part
def _at(text: Bytes, i: int, end: int) -> tuple[int, int]:
    """A position, or null, which is -1."""
    behind = _match(text, i, end, NULL, 0, len(NULL))
    if behind >= 0:
        return behind, -1
    behind, at = _integer(text, i, end, MAX_DIGITS)
    return behind if at <= MAX_AT else FAIL, np.int64(at)  # type: ignore[return-value]


@jit_part
def _epoch(text: Bytes, i: int, end: int) -> tuple[int, int]:
    """The token of an epoch, or null, which is 0; the token of 0 is none."""
    behind = _match(text, i, end, NULL, 0, len(NULL))
    if behind >= 0:
        return behind, 0
    epoch = 0
    for k in range(i + 1, i + 1 + EPOCH_DIGITS):
        byte = _byte(text, k, end)
        if ZERO <= byte <= NINE:
            epoch = (epoch << 4) | (byte - ZERO)
        elif LOWER_A <= byte <= LOWER_F:
            epoch = (epoch << 4) | (byte - LOWER_A + 10)
        else:
            return FAIL, 0
    behind = i + 1 + EPOCH_DIGITS
    if epoch == 0 or _byte(text, i, end) != QUOTE or _byte(text, behind, end) != QUOTE:
        return FAIL, 0
    return behind + 1, epoch


@jit_part
def _key(text: Bytes, i: int, end: int, key: Bytes) -> int:
    """A key, with what is around its colon."""
    i = _skip_blanks(text, _match(text, i, end, key, 0, len(key)), end)
    return _skip_blanks(text, i + 1, end) if _byte(text, i, end) == COLON else FAIL


@jit_part
def _body(
    text: Bytes, i: int, end: int, max_steps: int, flat: Bools, columns: Ints, numbers: Floats, r: int
) -> bool:
    """Whether the body of request `r` is plain; its values are in the columns then."""
    has_at = has_epoch = False
    i = _skip_blanks(text, i, end)
    byte = COMMA if _byte(text, i, end) == OPEN_OBJECT else 0
    while byte == COMMA:
        i = _skip_blanks(text, i + 1, end)
        observations = _key(text, i, end, OBSERVATIONS_KEY)
        at = _key(text, i, end, AT_KEY)
        epoch = _key(text, i, end, EPOCH_KEY)
        if observations >= 0 and columns[LENGTH, r] == 0:
            i, columns[LENGTH, r], columns[WIDTH, r], flat[r] = _observations(
                text, observations, end, max_steps, numbers, columns[FIRST, r]
            )
        elif at >= 0 and not has_at:
            has_at = True
            i, columns[AT, r] = _at(text, at, end)
        elif epoch >= 0 and not has_epoch:
            has_epoch = True
            i, columns[EPOCH, r] = _epoch(text, epoch, end)
        else:
            return False
        i = _skip_blanks(text, i, end)
        byte = _byte(text, i, end)
    return byte == CLOSE_OBJECT and columns[LENGTH, r] > 0 and _skip_blanks(text, i + 1, end) == end


@jit_part
def _session_id(text: Bytes, i: int, end: int, id_bytes: Bools, most: int) -> int:
    start = i
    dots = 0
    while id_bytes[_byte(text, i, end)]:
        dots += _byte(text, i, end) == POINT
        i += 1
    size = i - start
    return i if 1 <= size <= most and not (size <= 2 and dots == size) else FAIL


@jit_part
def _size(heads: Bytes, i: int) -> int:
    return _byte(heads, i, len(heads)) | _byte(heads, i + 1, len(heads)) << 8


@jit(
    readonly_contiguous("uint8"),
    contiguous("int64"),
    readonly_contiguous("uint8"),
    contiguous("bool"),
    INT,
    INT,
    INT,
    contiguous("bool", 2),
    contiguous("int64", 2),
    contiguous("float32"),
)
def _read(
    text: Bytes,
    sizes: Ints,
    heads: Bytes,
    id_bytes: Bools,
    max_id: int,
    max_body: int,
    max_steps: int,
    marks: Bools,
    columns: Ints,
    numbers: Floats,
) -> int:
    """Fill the columns; returns how many numbers there are."""
    plain, flat = marks[0], marks[1]
    end = head = total = 0
    for r in range(len(sizes)):
        start = end
        end = start + sizes[r]
        before, after = _size(heads, head), _size(heads, head + 2)
        head += 4
        session = _match(text, start, end, REQUEST, 0, len(REQUEST))
        session_end = _session_id(text, session, end, id_bytes, max_id)
        i = _match(text, session_end, end, heads, head, before)
        i, size = _integer(text, i, end, MAX_LENGTH_DIGITS)
        i = _match(text, i, end, heads, head + before, after)
        head += before + after
        columns[START, r], columns[END, r] = session, session_end
        columns[LENGTH, r] = columns[WIDTH, r] = columns[EPOCH, r] = 0
        columns[AT, r] = -1
        columns[FIRST, r] = total
        flat[r] = False
        plain[r] = (
            i >= 0
            and end - i == np.int64(size)
            and end - i <= max_body
            and _body(text, i, end, max_steps, flat, columns, numbers, r)
        )
        if plain[r]:
            total += columns[LENGTH, r] * columns[WIDTH, r]
    return total
