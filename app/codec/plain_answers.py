"""Answers to plain requests, written by the batch: all of them in one compiled call.

They are the same bytes as those of `app.codec.answers.encode_chunk_answer` behind the same head. Numbers are
printed by orjson, all predictions of a batch at once; this module only cuts them and puts them in place.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import orjson

from app.codec.plain_requests import PlainRequests
from app.jobs.answers import BulkAnswer
from models.arrays import Bools, Bytes, Epochs, Ints
from models.jit import INT, contiguous, jit, jit_part, readonly, readonly_contiguous

MAX_DIGITS = 19  # of an int64
EPOCH_DIGITS = 16
HEAD_END = b"\r\n\r\n"
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
    parts, part_ends = _fixed_parts(headers, answer.model)
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
    cuts = ends.tolist()
    text = written[: cuts[-1]].tobytes()
    return [text[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]


@lru_cache(maxsize=16)
def _fixed_parts(headers: bytes, model: str) -> tuple[bytes, Ints]:
    """What is the same in every response, and where each part of it ends; a number lies between two parts."""
    parts = (
        b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\ncontent-length: " % headers,
        HEAD_END + b'{"session":"',
        b'",%b,"position":' % orjson.dumps({"model": model})[1:-1],
        b',"epoch":"',
        b'","replayed":false,"predictions":',
    )
    return b"".join(parts), np.array([len(part) for part in parts]).cumsum()


@jit_part
def _copy(source: Bytes, start: int, end: int, written: Bytes, i: int) -> int:
    for k in range(end - start):
        written[i + k] = source[start + k]
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
        first = row
        for _ in range(steps[r]):
            while numbers[row] != CLOSE_LIST:
                row += 1
            row += 2  # the bracket and the comma behind it
        last = row - 1
        position = np.uint64(positions[r])
        position_digits = _count_digits(position)
        is_flat = flat[r] and outputs == 1  # one list: of each row [x] only x is written
        listed = last - first - 2 * steps[r] if is_flat else last - first
        body = fixed + session_ends[r] - session_starts[r] + position_digits + EPOCH_DIGITS + listed + 3
        i = _copy(parts, 0, head, written, i)
        i = _write_number(np.uint64(body), _count_digits(np.uint64(body)), written, i)
        i = _copy(parts, head, part_ends[1], written, i)
        i = _copy(text, session_starts[r], session_ends[r], written, i)
        i = _copy(parts, part_ends[1], part_ends[2], written, i)
        i = _write_number(position, position_digits, written, i)
        i = _copy(parts, part_ends[2], part_ends[3], written, i)
        i = _write_epoch(epochs[r], written, i)
        i = _copy(parts, part_ends[3], part_ends[4], written, i)
        written[i] = OPEN_LIST
        i += 1
        for k in range(first, last):
            if not (is_flat and (numbers[k] == OPEN_LIST or numbers[k] == CLOSE_LIST)):
                written[i] = numbers[k]
                i += 1
        written[i] = CLOSE_LIST
        written[i + 1] = CLOSE_OBJECT
        i += 2
        ends[r] = i
