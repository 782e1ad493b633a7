"""What a wave looks like in SQLite's journal table, and the checks that every record carries.

A wave is one row: `heads`, JSON that says whose records these are, and `bodies`, the records one after the
other. A record's CRC32 covers its session, model, position, deadline and body, so that no damage is taken
for a state, and no session's record for another's. A wave's CRC32 covers its sequence and its heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import msgspec

from app.errors import StoreFailed
from app.stores import Record, Tombstone

NEVER = float("inf")


@dataclass(slots=True)
class Entry:
    """The newest that was committed of one session, until it is folded into the tables."""

    what: Record | Tombstone
    crc: int
    in_table: bool  # whether the table of sessions has a row of it, however old
    sequence: int = 0  # the wave that it was written in; 0: not written yet
    number: int = 0  # of a tombstone, in the order of burials


class RecordHead(msgspec.Struct, array_like=True, frozen=True):
    """What the heads say of a record."""

    session: str
    model: int  # index of its fingerprint
    position: int
    deadline: int | None  # microseconds since 1970
    size: int
    crc: int


class TombstoneHead(msgspec.Struct, array_like=True, frozen=True):
    """What the heads say of a tombstone."""

    session: str
    position: int
    why: Literal["expired", "deleted"]
    buried: float
    crc: int


class Heads(msgspec.Struct, frozen=True):
    """Whose records a wave holds, and who was buried in it."""

    models: list[str]
    records: list[RecordHead]
    tombstones: list[TombstoneHead]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Heads).decode


def microseconds(time: float) -> int | None:
    """Seconds since 1970 as the file keeps them, because SQLite's JSON would round a float; None is never."""
    return None if time == NEVER else round(time * 1e6)


def seconds(time: int | None) -> float:
    """The time that `microseconds` wrote."""
    return NEVER if time is None else time / 1e6


def check(what: Record | Tombstone) -> int:
    """The CRC32 of a record or a tombstone."""
    if isinstance(what, Record):
        head = f"{what.session} {what.fingerprint} {what.position} {microseconds(what.deadline)} "
        return crc32(what.body, crc32(head.encode()))
    return crc32(f"{what.session} {what.position} {what.why} {microseconds(what.buried)}".encode())


def written(sequence: int, entries: Sequence[Entry]) -> tuple[bytes, int, bytes]:
    """One wave as a row: heads, their CRC32, bodies."""
    models: dict[str, int] = {}
    records: list[RecordHead] = []
    tombstones: list[TombstoneHead] = []
    bodies: list[bytes] = []
    for entry in entries:
        what = entry.what
        if isinstance(what, Record):
            model = models.setdefault(what.fingerprint, len(models))
            deadline = microseconds(what.deadline)
            head = RecordHead(what.session, model, what.position, deadline, len(what.body), entry.crc)
            records.append(head)
            bodies.append(what.body)
        else:
            tombstones.append(TombstoneHead(what.session, what.position, what.why, what.buried, entry.crc))
    heads = _encode(Heads(list(models), records, tombstones))
    return heads, _heads_check(sequence, heads), b"".join(bodies)


def read(sequence: int, heads: bytes, crc: int, bodies: bytes) -> list[Entry]:
    """The entries of one row, in order. A damaged body is left for `load` to find.

    Raises
    ------
    StoreFailed : the wave cannot be told apart
    """
    if _heads_check(sequence, heads) != crc:
        raise StoreFailed(f"wave {sequence} of its journal is damaged: the checksum does not match")
    told = _decode(heads)
    if sum(head.size for head in told.records) != len(bodies):
        raise StoreFailed(f"wave {sequence} of its journal is damaged: it is cut short")
    entries: list[Entry] = []
    start = 0
    for head in told.records:
        body = bodies[start : start + head.size]
        start += head.size
        record = Record(head.session, told.models[head.model], seconds(head.deadline), body, head.position)
        entries.append(Entry(record, head.crc, False))
    entries += [
        Entry(Tombstone(head.session, head.position, head.why, head.buried), head.crc, False)
        for head in told.tombstones
    ]
    return entries


def _heads_check(sequence: int, heads: bytes) -> int:
    return crc32(heads, crc32(b"%d " % sequence))
