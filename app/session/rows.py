"""Sessions as columns. A `Rows` is a value with many sessions of one model.

A session is a header (position, times, epoch, and the answers to its last few chunks) and a carry. Both have
a fixed size, so that the sessions of a batch are read, advanced and written back by a handful of array
operations, however many they are. The header holds an answer that is one prediction, unless the model's
predictions are wide or float64. Any other answer is long: it has more than one prediction, outputs beside
them, or a prediction that does not fit the header. It is an object of its own in `long_answers`. What clients
note on a session, its labels, is in `notes`.

The answers are newest first: `chunk_lengths[i, 0]` is the length of the last chunk, which began where the
chunk before it ended. A length of 0 ends the list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
import numpy as np

from app.errors import StoreFailed
from app.session.notes import NO_NOTES, Labels, Notes, shared_notes
from models.arrays import Bytes, Floats, Headers, Ints, Numbers
from models.forecaster import Forecaster

T = TypeVar("T")
Answer = dict[str, Numbers]  # "predictions" [steps, outputs], and forecast, intervals or surprise on request
LongAnswers = tuple[Answer | None, ...]  # newest first; None where the header holds the answer


def header_type(recent_chunks: int, outputs: int) -> np.dtype[np.void]:
    """The header of one session of a model whose answers have this many numbers there; 0: none."""
    return np.dtype(
        [
            ("position", "<i8"),
            ("since_reset", "<i8"),
            ("epoch", "<u8"),
            ("created", "<f8"),  # seconds since 1970
            ("seen", "<f8"),
            ("deadline", "<f8"),  # when the session expires; infinity for never
            ("ttl", "<f8"),  # idle seconds after which the session expires; infinity for never
            ("long_answer_count", "<u4"),  # number of entries in `long_answers`; 0 for a session without any
            ("digest", "<u8", (recent_chunks,)),
            ("chunk_lengths", "<u4", (recent_chunks,)),
            ("answer", "<f4", (recent_chunks, outputs)),
        ]
    )


@dataclass(slots=True)
class Rows:
    """Columns of `n` sessions of one model, copied out of the slab.

    headers : [n] of `header_type`; carries : [n, carry_size]
    long_answers : long answers by index; only sessions that have any
    notes : by index; only sessions that have any
    """

    headers: Headers
    carries: Floats
    long_answers: dict[int, LongAnswers] = field(default_factory=dict)
    notes: dict[int, Notes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.headers)

    def select(self, which: Ints) -> Rows:
        """The sessions at these indices, in this order."""
        long = _select(self.long_answers, which) if self.long_answers else {}
        notes = _select(self.notes, which) if self.notes else {}
        return Rows(self.headers[which], self.carries[which], long, notes)


def _select(by_index: dict[int, T], which: Ints) -> dict[int, T]:
    return {new: by_index[old] for new, old in enumerate(which.tolist()) if old in by_index}


class _Body(msgspec.Struct, array_like=True):
    recent: int
    outputs: int
    headers: bytes
    carry: bytes
    long: list[dict[str, tuple[list[int], bytes]] | None]


class _NotedBody(_Body, array_like=True):
    """A record of a session with notes; versions before them skip the last entry."""

    notes: Notes = NO_NOTES


_NOTED = bytes((0x90 + len(_NotedBody.__struct_fields__),))  # how it begins: an array of so many entries
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_NotedBody).decode


def pack(rows: Rows) -> list[bytes]:
    """One self-contained record for each session, little-endian.

    Records without long answers and notes differ only in header and carry. So one record is copied as often
    as it is needed, and headers and carries are copied into the copies as columns.
    """
    form, header, carry = _form(rows.headers.dtype, rows.carries.shape[1])
    table = np.empty((len(rows), len(form)), np.uint8)
    table[:] = form
    table[:, header] = _bytes(rows.headers)
    table[:, carry] = _bytes(rows.carries)
    packed, size = table.tobytes(), len(form)
    records = [packed[start : start + size] for start in range(0, len(packed), size)]
    for i in rows.long_answers.keys() | rows.notes.keys():
        answers, notes = rows.long_answers.get(i, ()), rows.notes.get(i, NO_NOTES)
        records[i] = _encode(_body(rows.headers[i], rows.carries[i], answers, notes))
    return records


def labels_of(record: bytes) -> Labels:
    """The labels in a record that `pack` wrote."""
    return tuple(_decode(record).notes.labels) if record[:1] == _NOTED else ()


@lru_cache(maxsize=64)
def _form(header_type: np.dtype[np.void], carry_size: int) -> tuple[Bytes, slice, slice]:
    """A record of zeros without a long answer, and where in it the header and the carry are."""
    empty = _body(np.zeros((), header_type), np.zeros(carry_size, np.float32), ())
    form = _encode(empty)
    end = len(form) - 1  # after the carry comes an empty list of long answers, which is one byte
    carry = slice(end - len(empty.carry), end)
    end = end - len(_encode(empty.carry))
    header = slice(end - len(empty.headers), end)
    return np.frombuffer(form, np.uint8), header, carry


def _bytes(column: Headers | Floats) -> Bytes:
    size = column.dtype.itemsize * math.prod(column.shape[1:])
    return np.ascontiguousarray(column).view(np.uint8).reshape(len(column), size)


def _body(header: Any, carry: Floats, long: LongAnswers, notes: Notes = NO_NOTES) -> _Body:
    recent, outputs = header.dtype["answer"].shape
    packed = [_packed(answer) for answer in long]
    if not notes:
        return _Body(recent, outputs, header.tobytes(), carry.tobytes(), packed)
    return _NotedBody(recent, outputs, header.tobytes(), carry.tobytes(), packed, notes)


def unpack(records: Sequence[bytes], recent_chunks: int, forecaster: Forecaster) -> Rows:
    """The sessions of records that `pack` wrote, for a slab of this layout.

    Of a record written under other settings the newest answers and observations are kept, as many as fit.

    Raises
    ------
    StoreFailed : a record that is damaged or belongs to another model
    """
    outputs = forecaster.short_answer_size
    rows = Rows(
        np.zeros(len(records), header_type(recent_chunks, outputs)),
        np.empty((len(records), forecaster.carry_size), np.float32),
    )
    for i, record in enumerate(records):
        try:
            body = _decode(record)
            header = np.frombuffer(body.headers, header_type(body.recent, body.outputs), 1)
            carry = forecaster.layout.resize_tail(np.frombuffer(body.carry, "<f4"))
        except (msgspec.MsgspecError, ValueError) as error:
            raise StoreFailed(f"a stored session cannot be read: {error}") from error
        if body.outputs != outputs:
            raise StoreFailed("a stored session has the shape of another model")
        copy_headers(header, rows.headers[i : i + 1])
        rows.carries[i] = carry
        if body.long:
            rows.long_answers[i] = tuple(_unpacked(answer) for answer in body.long[:recent_chunks])
        rows.headers["long_answer_count"][i] = len(rows.long_answers.get(i, ()))
        if body.notes:
            rows.notes[i] = shared_notes(body.notes)
    return rows


def copy_headers(old: Headers, new: Headers) -> None:
    """Copy headers to headers of another layout, with as many of the newest remembered answers as fit."""
    if old.dtype == new.dtype:
        new[:] = old
        return
    for name in old.dtype.names or ():
        if old.dtype[name].shape:
            fits = min(old[name].shape[1], new[name].shape[1])
            new[name][:, :fits] = old[name][:, :fits]
        else:
            new[name] = old[name]


def _packed(answer: Answer | None) -> dict[str, tuple[list[int], bytes]] | None:
    if answer is None:
        return None
    return {
        name: (list(array.shape), np.ascontiguousarray(array).tobytes()) for name, array in answer.items()
    }


def _unpacked(answer: dict[str, tuple[list[int], bytes]] | None) -> Answer | None:
    if answer is None:
        return None
    return {name: _numbers(shape, data) for name, (shape, data) in answer.items()}


def _numbers(shape: Sequence[int], data: bytes) -> Numbers:
    """Numbers of this shape, of float64 where there are so many bytes, else of float32."""
    kind = "<f8" if len(data) == 8 * math.prod(shape) else "<f4"
    return np.frombuffer(data, kind).reshape(shape)


def scalar(headers: Headers, name: str, i: int = 0) -> Any:
    """One field of one header as a Python number."""
    return headers[name][i].item()
