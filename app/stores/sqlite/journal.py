"""What a wave looks like in SQLite's journal table, and the checks that every record carries.

A wave is one row: `heads`, JSON that says whose records these are, and `bodies`, the records one after the
other. A record's CRC32 covers its session, model, position, deadline and body, so that no damage is taken
for a state, and no session's record for another's. A wave's CRC32 covers its sequence and its heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal
from zlib import crc32

import msgspec

from app.errors import StoreFailed
from app.stores import Block, Record, Tombstone

NEVER = float("inf")


@dataclass(frozen=True, slots=True, eq=False)
class SealedBlock:
    """A block as the file keeps it: its deadlines in microseconds, and a CRC32 for each record."""

    block: Block
    deadlines: Sequence[int | None]
    crcs: Sequence[int]


RecordRef = tuple[SealedBlock, int]
"""One record of a sealed block."""


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """A tombstone as the file keeps it."""

    tombstone: Tombstone
    number: int  # in the order of burials
    crc: int


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
    removed: float
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


def seal(block: Block) -> SealedBlock:
    """The block with the CRC32 of each record."""
    model = block.fingerprint
    deadlines = [microseconds(deadline) for deadline in block.deadlines]
    columns = zip(block.sessions, block.positions, deadlines, block.bodies, strict=True)
    crcs = [
        crc32(body, crc32(f"{session} {model} {position} {deadline} ".encode()))
        for session, position, deadline, body in columns
    ]
    return SealedBlock(block, deadlines, crcs)


def damaged_sessions(one: SealedBlock) -> list[str]:
    """Those of its sessions whose checksum is not that of their record."""
    checked = zip(one.block.sessions, seal(one.block).crcs, one.crcs, strict=True)
    return [session for session, right, told in checked if right != told]


def checksum(what: Record | Tombstone) -> int:
    """The CRC32 of a record or a tombstone."""
    if isinstance(what, Record):
        head = f"{what.session} {what.fingerprint} {what.position} {microseconds(what.deadline)} "
        return crc32(what.body, crc32(head.encode()))
    return crc32(f"{what.session} {what.position} {what.reason} {microseconds(what.removed)}".encode())


def group_by_model(places: Iterable[RecordRef]) -> list[SealedBlock]:
    """These records by themselves, a block a model."""
    by_model: dict[str, list[RecordRef]] = {}
    for place in places:
        by_model.setdefault(place[0].block.fingerprint, []).append(place)
    return [
        SealedBlock(
            Block(
                model,
                [one.block.sessions[i] for one, i in some],
                [one.block.positions[i] for one, i in some],
                [one.block.deadlines[i] for one, i in some],
                [one.block.bodies[i] for one, i in some],
            ),
            [one.deadlines[i] for one, i in some],
            [one.crcs[i] for one, i in some],
        )
        for model, some in by_model.items()
    ]


def encode_entry(
    sequence: int, blocks: Sequence[SealedBlock], removals: Sequence[Removal]
) -> tuple[bytes, int, bytes]:
    """One wave as a row: heads, their CRC32, bodies."""
    records: list[tuple[object, ...]] = []
    bodies: list[bytes] = []
    for model, one in enumerate(blocks):
        block = one.block
        sizes = map(len, block.bodies)
        records += zip(  # a `RecordHead` each
            block.sessions, repeat(model), block.positions, one.deadlines, sizes, one.crcs, strict=False
        )
        bodies += block.bodies
    buried = [
        (
            removal.tombstone.session,
            removal.tombstone.position,
            removal.tombstone.reason,
            removal.tombstone.removed,
            removal.crc,
        )
        for removal in removals
    ]
    models = [one.block.fingerprint for one in blocks]
    heads = _encode({"models": models, "records": records, "tombstones": buried})
    return heads, _heads_check(sequence, heads), b"".join(bodies)


def decode_entry(
    sequence: int, heads: bytes, crc: int, bodies: bytes, buried: int
) -> tuple[list[SealedBlock], list[Removal]]:
    """The blocks and graves of one row. A damaged body is left for `load` to find.

    Parameters
    ----------
    buried : number of the last tombstone before

    Raises
    ------
    StoreFailed : the wave cannot be told apart
    """
    if _heads_check(sequence, heads) != crc:
        raise StoreFailed(f"wave {sequence} of its journal is damaged: the checksum does not match")
    told = _decode(heads)
    if sum(head.size for head in told.records) != len(bodies):
        raise StoreFailed(f"wave {sequence} of its journal is damaged: it is cut short")
    places: list[RecordRef] = []
    start = 0
    for head in told.records:
        body = bodies[start : start + head.size]
        start += head.size
        model, deadline = told.models[head.model], seconds(head.deadline)
        block = Block(model, [head.session], [head.position], [deadline], [body])
        places.append((SealedBlock(block, [head.deadline], [head.crc]), 0))
    removals = [
        Removal(Tombstone(head.session, head.position, head.why, head.removed), number, head.crc)
        for number, head in enumerate(told.tombstones, buried + 1)
    ]
    return group_by_model(places), removals


def _heads_check(sequence: int, heads: bytes) -> int:
    return crc32(heads, crc32(b"%d " % sequence))
