"""The compiled parsers of plain requests and of plain messages.

`app.codec.plain_requests` says which requests are plain, and `app.codec.plain_messages`, which messages.

The float32 of a number is always the one that `app.codec.chunks` gives, that of the correctly rounded double:

- With digits up to 2**53 and at most 22 powers of ten, a single operation makes the double, which is
  therefore correctly rounded (Clinger, How to read floating point numbers accurately, 1990).
- Otherwise the double differs from the correctly rounded one by at most 2**-51 of it: that one is rounded
  once, this one three times. If the float32 is the same `MARGIN` below and above it, it is the same between
  them, because rounding is monotone. If it is not, which is to be expected of about one in 2**25 numbers, the
  request is not plain.

The bytes may be hostile: no byte is read behind the end of its request, and the effort is linear.

A function gets the index at which it begins, and returns the index behind what it read. What is not plain
gives FAIL, which is so far below 0 that it stays negative when the length of a word is added. From a negative
index nothing is read, and what is returned for it is negative, too.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Bools, Bytes, Floats, Ints, UInt32s
from models.jit import INT, contiguous, jit, jit_part, readonly_contiguous

FAIL = -(2**32)
# The rows of `columns`; only messages have the last two.
START, END, LENGTH, WIDTH, AT, EPOCH, FIRST, TAG_START, TAG_END = range(9)
REQUEST = np.frombuffer(b"POST /sessions/", np.uint8)
OBSERVATIONS_KEY = np.frombuffer(b'"observations"', np.uint8)
AT_KEY = np.frombuffer(b'"at"', np.uint8)
EPOCH_KEY = np.frombuffer(b'"epoch"', np.uint8)
SESSION_KEY = np.frombuffer(b'"session"', np.uint8)
TAG_KEY = np.frombuffer(b'"tag"', np.uint8)
NULL = np.frombuffer(b"null", np.uint8)
TAB, NEWLINE, RETURN, BLANK, QUOTE, COLON, COMMA, POINT, PLUS, MINUS, ZERO, NINE = b'\t\n\r ":,.+-09'
OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT, LOWER_A, LOWER_E, LOWER_F, UPPER_E = b"[]{}aefE"
BACKSLASH, TILDE = b"\\~"

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
BINARY_HEADER = 24  # bytes; `app.codec.frames` shows the layout
NOT_FINITE = np.uint32(0x7F800000)  # the exponent of infinities and NaN


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
    here, there, different = np.uint64(i), np.uint64(start), np.uint8(0)
    # To the end in any case, with unsigned indices: this is compiled to a few wide instructions.
    for k in range(np.uint64(size)):
        different |= text[here + k] ^ expected[there + k]
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
def _session_id(text: Bytes, i: int, end: int, id_bytes: Bools, most: int) -> int:
    start = i
    dots = 0
    while id_bytes[_byte(text, i, end)]:
        dots += _byte(text, i, end) == POINT
        i += 1
    size = i - start
    return i if 1 <= size <= most and not (size <= 2 and dots == size) else FAIL


@jit_part
def _quoted_id(text: Bytes, i: int, end: int, id_bytes: Bools, most: int) -> tuple[int, int, int]:
    """A session id as a string; returns the indexes of its first character and of the last quote, too."""
    start = i + 1 if _byte(text, i, end) == QUOTE else FAIL
    behind = _session_id(text, start, end, id_bytes, most)
    return behind + 1 if _byte(text, behind, end) == QUOTE else FAIL, start, behind


@jit_part
def _tag(text: Bytes, i: int, end: int) -> int:
    """An integer without a sign, or a string of printable ASCII without escapes."""
    if _byte(text, i, end) != QUOTE:
        return _integer(text, i, end, MAX_DIGITS)[0]
    byte = BLANK
    while BLANK <= byte <= TILDE and byte != BACKSLASH:
        i += 1
        byte = _byte(text, i, end)
        if byte == QUOTE:
            return i + 1
    return FAIL


@jit_part
def _body(
    text: Bytes,
    i: int,
    end: int,
    is_message: bool,
    id_bytes: Bools,
    max_id: int,
    max_steps: int,
    flat: Bools,
    columns: Ints,
    numbers: Floats,
    r: int,
) -> bool:
    """Whether the body of request `r`, or message `r`, is plain; its values are in the columns then."""
    has_at = has_epoch = has_session = has_tag = False
    i = _skip_blanks(text, i, end)
    byte = COMMA if _byte(text, i, end) == OPEN_OBJECT else 0
    while byte == COMMA:
        i = _skip_blanks(text, i + 1, end)
        observations = _key(text, i, end, OBSERVATIONS_KEY)
        at = _key(text, i, end, AT_KEY)
        epoch = _key(text, i, end, EPOCH_KEY)
        session = _key(text, i, end, SESSION_KEY) if is_message else FAIL
        tag = _key(text, i, end, TAG_KEY) if is_message else FAIL
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
        elif session >= 0 and not has_session:
            has_session = True
            i, columns[START, r], columns[END, r] = _quoted_id(text, session, end, id_bytes, max_id)
        elif tag >= 0 and not has_tag:
            has_tag = True
            i = _tag(text, tag, end)
            columns[TAG_START, r], columns[TAG_END, r] = tag, i
        else:
            return False
        i = _skip_blanks(text, i, end)
        byte = _byte(text, i, end)
    return byte == CLOSE_OBJECT and columns[LENGTH, r] > 0 and _skip_blanks(text, i + 1, end) == end


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
def parse(
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
) -> tuple[int, int]:
    """Fill the columns; returns how many numbers there are, and the width of all plain observations.

    The width is 0 where a request is not plain, or has observations of another width.

    Parameters
    ----------
    text : all requests, one after the other
    sizes : [n], bytes of each request
    heads : the heads, one after the other: two lengths of 2 bytes, little endian, and the two parts
    id_bytes : [256], whether a session id may hold the byte
    max_id, max_body : bytes
    max_steps : observations of the longest chunk
    marks : [2, n], plain and flat
    columns : [7, n], as the names of its rows say
    numbers : [half of the bytes of `text`]: a number and what is behind it are 2 bytes or more
    """
    plain, flat = marks[0], marks[1]
    end = head = total = 0
    alike = True
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
            and _body(text, i, end, False, id_bytes, max_id, max_steps, flat, columns, numbers, r)
        )
        if plain[r]:
            total += columns[LENGTH, r] * columns[WIDTH, r]
        alike &= plain[r] and columns[WIDTH, r] == columns[WIDTH, 0]
    return total, columns[WIDTH, 0] if alike else 0


@jit_part
def _little_endian(text: Bytes, i: int, count: int) -> int:
    value = np.int64(0)
    for k in range(count):
        value |= np.int64(text[i + k]) << (8 * k)
    return value  # type: ignore[return-value]


@jit_part
def _binary(
    text: Bytes,
    i: int,
    end: int,
    id_bytes: Bools,
    max_id: int,
    max_steps: int,
    columns: Ints,
    bits: UInt32s,
    r: int,
) -> bool:
    """Whether the binary message `r` is plain; its values are in the columns then."""
    if end - i < BINARY_HEADER:
        return False
    name, gaps, width = _little_endian(text, i, 1), text[i + 1], _little_endian(text, i + 2, 2)
    horizon, at = _little_endian(text, i + 4, 4), _little_endian(text, i + 8, 8)
    start = i + BINARY_HEADER
    first = start + (name + 3) // 4 * 4
    size = end - first
    if gaps != 0 or horizon != 0 or width == 0 or at < -1 or size <= 0 or size % (4 * width) != 0:
        return False
    length = size // (4 * width)
    if length > max_steps:
        return False
    if name > 0:
        if _session_id(text, start, start + name, id_bytes, max_id) != start + name:
            return False
        columns[START, r], columns[END, r] = start, start + name
    columns[LENGTH, r], columns[WIDTH, r], columns[AT, r] = length, width, at
    columns[EPOCH, r] = _little_endian(text, i + 16, 8)
    total = columns[FIRST, r]
    finite = True
    for k in range(length * width):
        word = np.uint32(_little_endian(text, first + 4 * k, 4))
        finite &= (word & NOT_FINITE) != NOT_FINITE
        bits[total + k] = word
    return finite


@jit(
    readonly_contiguous("uint8"),
    contiguous("int64"),
    contiguous("bool"),
    contiguous("bool"),
    readonly_contiguous("bool"),
    INT,
    INT,
    INT,
    contiguous("bool", 2),
    contiguous("int64", 2),
    contiguous("float32"),
    contiguous("uint32"),
)
def parse_messages(
    text: Bytes,
    sizes: Ints,
    binary: Bools,
    named: Bools,
    id_bytes: Bools,
    max_id: int,
    max_body: int,
    max_steps: int,
    marks: Bools,
    columns: Ints,
    numbers: Floats,
    bits: UInt32s,
) -> int:
    """Fill the columns; returns how many numbers there are.

    Parameters
    ----------
    text : all messages, one after the other
    sizes : [n], bytes of each message
    binary : [n], whether the message is binary and not text
    named : [n], whether a plain message names its session, or must not
    id_bytes : [256], whether a session id may hold the byte
    max_id, max_body : bytes
    max_steps : observations of the longest chunk
    marks : [2, n], plain and flat
    columns : [9, n], as the names of its rows say
    numbers : [half of the bytes of `text`]: a number and what is behind it are 2 bytes or more
    bits : the same memory as `numbers`
    """
    plain, flat = marks[0], marks[1]
    end = total = 0
    for r in range(len(sizes)):
        start = end
        end = start + sizes[r]
        columns[START, r] = columns[END, r] = columns[TAG_START, r] = columns[TAG_END, r] = 0
        columns[LENGTH, r] = columns[WIDTH, r] = columns[EPOCH, r] = 0
        columns[AT, r] = -1
        columns[FIRST, r] = total
        flat[r] = False
        if end - start > max_body:
            plain[r] = False
        elif binary[r]:
            plain[r] = _binary(text, start, end, id_bytes, max_id, max_steps, columns, bits, r)
        else:
            plain[r] = _body(text, start, end, True, id_bytes, max_id, max_steps, flat, columns, numbers, r)
        plain[r] &= named[r] == (columns[END, r] > 0)
        if plain[r]:
            total += columns[LENGTH, r] * columns[WIDTH, r]
    return total
