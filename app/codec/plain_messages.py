"""Messages of the sockets in their plain form, read by the batch: many messages in one compiled call.

A plain text message is an object as `app.codec.plain_requests` describes it, with two more keys:

| key       | value                                                                                    |
|-----------|------------------------------------------------------------------------------------------|
| `session` | a session id; required on a socket whose path names none, and allowed only there         |
| `tag`     | an integer of up to 19 digits, or a string of printable ASCII without escapes            |

A plain binary message is one chunk of finite numbers, without horizon and without gaps. It names its session
on a socket whose path names none, and only there. All other messages are read by `app.codec.frames`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from app.codec.limits import MAX_SESSION_ID, SMALL_BODY_BYTES
from app.codec.plain_parser import (
    AT,
    END,
    EPOCH,
    FIRST,
    LENGTH,
    START,
    TAG_END,
    TAG_START,
    WIDTH,
    parse_messages,
)
from app.codec.plain_requests import ID_BYTES, unmark_inexact
from models.arrays import Bools, Epochs, Floats, Ints


@dataclass(slots=True)
class PlainMessages:
    """Columns of n messages, in their order.

    joined : all messages, one after the other
    binary : [n], whether the message is binary
    marks : [2, n], whether the message is plain, and whether its observations were bare numbers; of messages
        that are not plain, the other columns mean nothing
    columns : [9, n], as `app.codec.plain_parser` names its rows
    numbers : [total], finite; `columns` says where each message's begin
    """

    joined: bytes
    binary: Bools
    marks: Bools
    columns: Ints
    numbers: Floats

    def __len__(self) -> int:
        return len(self.binary)

    @property
    def plain(self) -> Bools:
        """[n], whether the message is plain."""
        plain: Bools = self.marks[0]
        return plain

    @property
    def flat(self) -> Bools:
        """[n], whether the observations were bare numbers, and are answered so."""
        flat: Bools = self.marks[1]
        return flat

    @property
    def session_spans(self) -> tuple[Ints, Ints]:
        """[n] and [n], where the session id begins and ends in `joined`."""
        return self.columns[START], self.columns[END]

    @property
    def tag_spans(self) -> tuple[Ints, Ints]:
        """[n] and [n], where the tag begins and ends in `joined`; both are the same where there is none."""
        return self.columns[TAG_START], self.columns[TAG_END]

    @property
    def lengths(self) -> Ints:
        """[n], observations of the chunk."""
        lengths: Ints = self.columns[LENGTH]
        return lengths

    @property
    def widths(self) -> Ints:
        """[n], numbers in an observation."""
        widths: Ints = self.columns[WIDTH]
        return widths

    @property
    def at(self) -> Ints:
        """[n], -1: none."""
        at: Ints = self.columns[AT]
        return at

    @property
    def epochs(self) -> Epochs:
        """[n], 0: none."""
        epochs: Epochs = self.columns[EPOCH].view(np.uint64)
        return epochs

    def select(self, indexes: Ints) -> PlainMessages:
        """The messages at these indexes."""
        marks, columns = self.marks.take(indexes, axis=1), self.columns.take(indexes, axis=1)
        return PlainMessages(self.joined, self.binary[indexes], marks, columns, self.numbers)

    @staticmethod
    def join(parts: Sequence[PlainMessages]) -> PlainMessages:
        """The messages of one part after the other. What several were selected from is copied once."""
        texts = {id(part.joined): part.joined for part in parts}
        numbers = {id(part.numbers): part.numbers for part in parts}
        text_starts = _starts(texts)
        number_starts = _starts(numbers)
        columns = np.concatenate([part.columns for part in parts], axis=1)
        counts = [len(part) for part in parts]
        columns[[START, END, TAG_START, TAG_END]] += np.repeat(
            [text_starts[id(part.joined)] for part in parts], counts
        )
        columns[FIRST] += np.repeat([number_starts[id(part.numbers)] for part in parts], counts)
        return PlainMessages(
            b"".join(texts.values()),
            np.concatenate([part.binary for part in parts]),
            np.concatenate([part.marks for part in parts], axis=1),
            columns,
            np.concatenate(list(numbers.values())),
        )

    def observations(self) -> Floats:
        """[total, width], those of one message after the other; all messages are of one width."""
        width = int(self.widths[0])
        counts = self.lengths * width
        ends = counts.cumsum()
        shifts = self.columns[FIRST] - (ends - counts)
        numbers: Floats = self.numbers[np.arange(ends[-1]) + shifts.repeat(counts)]
        return numbers.reshape(-1, width)


def _starts(parts: Mapping[int, Sized]) -> dict[int, int]:
    """By key, where each part begins if they lie one after the other."""
    ends = accumulate(map(len, parts.values()))
    return {key: end - len(part) for (key, part), end in zip(parts.items(), ends, strict=True)}


def read_messages(
    messages: Sequence[bytes],
    binary: Sequence[bool],
    named: Sequence[bool],
    max_steps: int,
    *,
    exact: bool = False,
) -> PlainMessages:
    """Read those of the messages that are plain.

    Parameters
    ----------
    messages : [n]
    binary : [n], whether the message is binary and not text
    named : [n], whether the message must name its session; else it must not
    max_steps : observations of the longest chunk that is plain
    exact : a message with a number beyond 2**24 is not plain, because float32 may not hold it

    Raises
    ------
    ValueError : the lists differ in length
    """
    n = len(messages)
    if not len(binary) == len(named) == n:
        raise ValueError(f"{n} messages, {len(binary)} kinds and {len(named)} marks")
    joined = b"".join(messages)
    marks = np.empty((2, n), np.bool_)
    columns = np.empty((9, n), np.int64)
    numbers = np.empty(len(joined) // 2, np.float32)  # a number and what is behind it are 2 bytes or more
    is_binary = np.array(binary, np.bool_)
    total = parse_messages(
        np.frombuffer(joined, np.uint8),
        np.fromiter(map(len, messages), np.int64, n),
        is_binary,
        np.array(named, np.bool_),
        ID_BYTES,
        MAX_SESSION_ID,
        SMALL_BODY_BYTES,
        max_steps,
        marks,
        columns,
        numbers,
        numbers.view(np.uint32),
    )
    if exact:
        unmark_inexact(marks[0], columns[FIRST], columns[LENGTH] * columns[WIDTH], numbers[:total])
    return PlainMessages(joined, is_binary, marks, columns, numbers[:total])
