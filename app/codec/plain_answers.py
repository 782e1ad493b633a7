"""Answers to plain requests and messages, written by the batch: all of them in one compiled call.

They are the same bytes as those of `app.codec.answers.encode_chunk_answer` behind the same head, or those of
`app.codec.frames.encode_answer` in their frame. Numbers are printed by orjson, all predictions of a batch at
once; this module only cuts them and puts them in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import orjson

from app.codec.plain_messages import PlainMessages
from app.codec.plain_requests import PlainRequests
from app.jobs.answers import BulkAnswer
from models.arrays import Bools, Bytes, Epochs, Ints
from models.jit import INT, contiguous, jit, jit_part, readonly, readonly_contiguous

MAX_DIGITS = 19  # of an int64
EPOCH_DIGITS = 16
HEAD_END = b"\r\n\r\n"
BINARY_HEADER = 24  # bytes; `app.codec.frames` shows the layout
MAX_FRAME_HEAD = 10
TEXT_FRAME, BINARY_FRAME = 0x81, 0x82  # the first byte of a whole message
TAG = np.frombuffer(b',"tag":', np.uint8)
TEN, SIXTEEN = np.uint64(10), np.uint64(16)
OPEN_LIST, CLOSE_LIST, CLOSE_OBJECT, ZERO, LOWER_A = b"[]}0a"


def write_plain_answers(requests: PlainRequests, answer: BulkAnswer, headers: bytes) -> list[bytes]:
    """The whole responses to requests whose chunks were applied together.

    Parameters
    ----------
    requests : all plain
    answer : of chunks of one model, none of them refused or replayed, with no outputs but predictions
    headers : of every response, whole lines
    """
    outputs = int(answer.outputs)
    numbers = orjson.dumps(answer.predictions.reshape(-1, outputs), option=orjson.OPT_SERIALIZE_NUMPY)
    head = b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\ncontent-length: " % headers
    parts, part_ends = _fixed_parts(head, HEAD_END, answer.model)
    count = len(requests)
    size = count * (len(parts) + 2 * MAX_DIGITS + EPOCH_DIGITS + 3) + len(numbers) + len(requests.joined)
    written = np.empty(size, np.uint8)
    ends = np.empty(count, np.int64)
    _write(
        np.frombuffer(parts, np.uint8),
        part_ends,
        np.frombuffer(requests.joined, np.uint8),
        requests.session_starts,
        requests.session_ends,
        requests.flat,
        outputs,
        np.frombuffer(numbers, np.uint8),
        answer.steps,
        answer.positions,
        answer.epochs,
        written,
        ends,
    )
    return _cut(written, ends)


def write_plain_frames(
    messages: PlainMessages, sessions: Sequence[str], named: Bools, answer: BulkAnswer
) -> list[bytes]:
    """The whole frames that answer messages whose chunks were applied together.

    Parameters
    ----------
    messages : [n], all plain
    sessions : [n], the id of each message's session
    named : [n], whether a binary answer names the session
    answer : as in `write_plain_answers`
    """
    outputs, count = int(answer.outputs), len(messages)
    numbers = b""
    if not messages.binary.all():
        predictions = answer.predictions.reshape(-1, outputs)
        if messages.binary.any():
            predictions = predictions[~messages.binary.repeat(answer.steps)]
        numbers = orjson.dumps(predictions, option=orjson.OPT_SERIALIZE_NUMPY)
    raw_numbers = np.ascontiguousarray(answer.predictions).view(np.uint8)
    names = "".join(sessions).encode()
    sizes = np.fromiter(map(len, sessions), np.int64, count)
    name_ends = sizes.cumsum()
    parts, part_ends = _fixed_parts(b"", b"", answer.model)
    per_frame = len(parts) + BINARY_HEADER + MAX_DIGITS + EPOCH_DIGITS + len(TAG) + 3 + MAX_FRAME_HEAD + 3
    tag_starts, tag_ends = messages.tag_spans
    tags = int((tag_ends - tag_starts).sum())
    written = np.empty(count * per_frame + len(names) + len(numbers) + len(raw_numbers) + tags, np.uint8)
    ends = np.empty(count, np.int64)
    _write_frames(
        np.frombuffer(parts, np.uint8),
        part_ends,
        np.frombuffer(names, np.uint8),
        name_ends - sizes,
        name_ends,
        np.frombuffer(messages.joined, np.uint8),
        tag_starts,
        tag_ends,
        messages.flat,
        messages.binary,
        named,
        outputs,
        np.frombuffer(numbers, np.uint8),
        raw_numbers,
        answer.steps,
        answer.positions,
        answer.epochs,
        written,
        ends,
    )
    return _cut(written, ends)


def _cut(written: Bytes, ends: Ints) -> list[bytes]:
    cuts = ends.tolist()
    text = written[: cuts[-1]].tobytes()
    return [text[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]


@lru_cache(maxsize=16)
def _fixed_parts(head: bytes, head_end: bytes, model: str) -> tuple[bytes, Ints]:
    """What is the same in every answer, and where each part of it ends; a number lies between two parts."""
    parts = (
        head,
        head_end + b'{"session":"',
        b'",%b,"position":' % orjson.dumps({"model": model})[1:-1],
        b',"epoch":"',
        b'","replayed":false,"predictions":',
    )
    return b"".join(parts), np.array([len(part) for part in parts]).cumsum()


@jit_part
def _copy(source: Bytes, start: int, end: int, written: Bytes, i: int) -> int:
    # Unsigned indices: whether a signed one counts from the end would be checked for every byte.
    here, there = np.uint64(start), np.uint64(i)
    for k in range(np.uint64(end - start)):
        written[there + k] = source[here + k]
    return i + end - start


@jit_part
def _count_digits(number: np.uint64) -> int:
    count = 1
    while number >= TEN:
        number //= TEN
        count += 1
    return count


@jit_part
def _write_number(number: np.uint64, count: int, written: Bytes, i: int) -> int:
    for k in range(count):
        written[i + count - 1 - k] = np.uint8(number % TEN) + ZERO
        number //= TEN
    return i + count


@jit_part
def _write_epoch(epoch: np.uint64, written: Bytes, i: int) -> int:
    for k in range(EPOCH_DIGITS):
        digit = np.uint8(epoch % SIXTEEN)
        written[i + EPOCH_DIGITS - 1 - k] = digit + (ZERO if digit < 10 else LOWER_A - 10)
        epoch //= SIXTEEN
    return i + EPOCH_DIGITS


@jit_part
def _end_of_rows(numbers: Bytes, row: int, steps: int) -> int:
    """The index behind so many rows, without the comma."""
    for _ in range(steps):
        while numbers[row] != CLOSE_LIST:
            row += 1
        row += 2  # the bracket and the comma behind it
    return row - 1


@jit_part
def _body_size(fixed: int, session: int, position: np.uint64, is_flat: bool, steps: int, numbers: int) -> int:
    """Bytes of a body: of its fixed parts, the session id, the position, the epoch and its numbers."""
    listed = numbers - 2 * steps if is_flat else numbers
    return fixed + session + _count_digits(position) + EPOCH_DIGITS + listed + 3


@jit_part
def _write_body(
    parts: Bytes,
    part_ends: Ints,
    text: Bytes,
    session_start: int,
    session_end: int,
    position: np.uint64,
    epoch: np.uint64,
    is_flat: bool,
    numbers: Bytes,
    first: int,
    last: int,
    written: Bytes,
    i: int,
) -> int:
    """Write a body behind its first fixed part; its numbers are those from `first` to `last`."""
    i = _copy(text, session_start, session_end, written, i)
    i = _copy(parts, part_ends[1], part_ends[2], written, i)
    i = _write_number(position, _count_digits(position), written, i)
    i = _copy(parts, part_ends[2], part_ends[3], written, i)
    i = _write_epoch(epoch, written, i)
    i = _copy(parts, part_ends[3], part_ends[4], written, i)
    written[i] = OPEN_LIST
    i += 1
    for k in range(first, last):
        if not (is_flat and (numbers[k] == OPEN_LIST or numbers[k] == CLOSE_LIST)):
            written[i] = numbers[k]
            i += 1
    written[i] = CLOSE_LIST
    written[i + 1] = CLOSE_OBJECT
    return i + 2


@jit(
    readonly_contiguous("uint8"), contiguous("int64"), readonly_contiguous("uint8"), contiguous("int64"),
    contiguous("int64"), contiguous("bool"), INT, readonly_contiguous("uint8"), readonly("int64"),
    readonly("int64"), readonly("uint64"), contiguous("uint8"), contiguous("int64"),
)  # fmt: skip
def _write(
    parts: Bytes,
    part_ends: Ints,
    text: Bytes,
    session_starts: Ints,
    session_ends: Ints,
    flat: Bools,
    outputs: int,
    numbers: Bytes,
    steps: Ints,
    positions: Ints,
    epochs: Epochs,
    written: Bytes,
    ends: Ints,
) -> None:
    """Write the responses one after the other; `ends` are the indexes behind each."""
    i, row = 0, 1  # `row` is the index of the next row in `numbers`, behind the bracket that opens all
    head, fixed = part_ends[0], part_ends[4] - part_ends[0] - len(HEAD_END)
    for r in range(len(flat)):
        last = _end_of_rows(numbers, row, steps[r])
        position = np.uint64(positions[r])
        is_flat = flat[r] and outputs == 1  # one list: of each row [x] only x is written
        session = session_ends[r] - session_starts[r]
        body = np.uint64(_body_size(fixed, session, position, is_flat, steps[r], last - row))
        i = _copy(parts, 0, head, written, i)
        i = _write_number(body, _count_digits(body), written, i)
        i = _copy(parts, head, part_ends[1], written, i)
        i = _write_body(
            parts, part_ends, text, session_starts[r], session_ends[r], position, epochs[r], is_flat, numbers,
            row, last, written, i,
        )  # fmt: skip
        row = last + 1
        ends[r] = i


@jit_part
def _write_frame_head(kind: int, size: int, written: Bytes, i: int) -> int:
    """The head of an unmasked frame of a whole message (RFC 6455, section 5.2)."""
    written[i] = kind
    if size < 126:
        written[i + 1] = size
        return i + 2
    count = 2 if size < 65_536 else 8
    written[i + 1] = 126 if count == 2 else 127
    for k in range(count):
        written[i + 2 + k] = (size >> 8 * (count - 1 - k)) & 0xFF
    return i + 2 + count


@jit_part
def _write_little_endian(value: np.uint64, count: int, written: Bytes, i: int) -> int:
    for k in range(count):
        written[i + k] = np.uint8((value >> np.uint64(8 * k)) & np.uint64(0xFF))
    return i + count


@jit(
    readonly_contiguous("uint8"), contiguous("int64"), readonly_contiguous("uint8"), contiguous("int64"),
    contiguous("int64"), readonly_contiguous("uint8"), readonly("int64"), readonly("int64"), readonly("bool"),
    readonly("bool"), readonly("bool"), INT, readonly_contiguous("uint8"), readonly_contiguous("uint8"),
    readonly("int64"), readonly("int64"), readonly("uint64"), contiguous("uint8"), contiguous("int64"),
)  # fmt: skip
def _write_frames(
    parts: Bytes,
    part_ends: Ints,
    names: Bytes,
    name_starts: Ints,
    name_ends: Ints,
    text: Bytes,
    tag_starts: Ints,
    tag_ends: Ints,
    flat: Bools,
    binary: Bools,
    named: Bools,
    outputs: int,
    numbers: Bytes,
    raw_numbers: Bytes,
    steps: Ints,
    positions: Ints,
    epochs: Epochs,
    written: Bytes,
    ends: Ints,
) -> None:
    """Write the frames one after the other; `ends` are the indexes behind each.

    `numbers` are the predictions of the text messages as JSON, `raw_numbers` those of all as float32.
    """
    i, row, raw = 0, 1, 0
    fixed = part_ends[4]
    for r in range(len(flat)):
        name_start, name_end = name_starts[r], name_ends[r]
        position = np.uint64(positions[r])
        raw_size = 4 * outputs * steps[r]
        if binary[r]:
            name = name_end - name_start if named[r] else 0
            padded = (name + 3) // 4 * 4
            i = _write_frame_head(BINARY_FRAME, BINARY_HEADER + padded + raw_size, written, i)
            written[i] = name
            written[i + 1] = 0  # not replayed
            i = _write_little_endian(np.uint64(outputs), 2, written, i + 2)
            i = _write_little_endian(np.uint64(steps[r]), 4, written, i)
            i = _write_little_endian(position, 8, written, i)
            i = _write_little_endian(epochs[r], 8, written, i)
            i = _copy(names, name_start, name_start + name, written, i)
            for _ in range(padded - name):
                written[i] = 0
                i += 1
            i = _copy(raw_numbers, raw, raw + raw_size, written, i)
        else:
            last = _end_of_rows(numbers, row, steps[r])
            is_flat = flat[r] and outputs == 1
            body = _body_size(fixed, name_end - name_start, position, is_flat, steps[r], last - row)
            tag = tag_ends[r] - tag_starts[r]
            size = body if tag == 0 else body + len(TAG) + tag
            i = _write_frame_head(TEXT_FRAME, size, written, i)
            i = _copy(parts, 0, part_ends[1], written, i)
            i = _write_body(
                parts, part_ends, names, name_start, name_end, position, epochs[r], is_flat, numbers, row,
                last, written, i,
            )  # fmt: skip
            if tag > 0:
                i = _copy(TAG, 0, len(TAG), written, i - 1)
                i = _copy(text, tag_starts[r], tag_ends[r], written, i)
                written[i] = CLOSE_OBJECT
                i += 1
            row = last + 1
        raw += raw_size
        ends[r] = i
