"""The checksums that every record and tombstone carries, and how times are kept.

A record's CRC-32 covers its session, model, position, deadline and body, so that no damage is taken for a
state, and no session's record for another's.
"""

from __future__ import annotations

from zlib import crc32

from app.stores import Block, Record, Tombstone

NEVER = float("inf")
MAX_SECONDS = 9e12  # in microseconds less than 2^63


def microseconds(time: float) -> int | None:
    """Seconds since 1970 as the file keeps them, because SQLite's JSON would round a float; None is never.

    Raises
    ------
    ValueError : it does not fit an integer of SQLite, which would round it without an error
    """
    if time == NEVER:
        return None
    if not abs(time) < MAX_SECONDS:
        raise ValueError(f"the time {time:g} is out of range")
    return round(time * 1e6)


def seconds(time: int | None) -> float:
    """The time that `microseconds` wrote."""
    return NEVER if time is None else time / 1e6


def checksums(block: Block) -> list[int]:
    """The CRC-32 of each record of a block."""
    model = block.fingerprint
    columns = zip(block.sessions, block.positions, block.deadlines, block.bodies, strict=True)
    return [
        crc32(body, crc32(f"{session} {model} {position} {microseconds(deadline)} ".encode()))
        for session, position, deadline, body in columns
    ]


def record_checksum(record: Record) -> int:
    """The CRC-32 of one record."""
    head = f"{record.session} {record.fingerprint} {record.position} {microseconds(record.deadline)} "
    return crc32(record.body, crc32(head.encode()))


def tombstone_checksum(tombstone: Tombstone) -> int:
    """The CRC-32 of a tombstone."""
    removed = microseconds(tombstone.removed)
    return crc32(f"{tombstone.session} {tombstone.position} {tombstone.reason} {removed}".encode())
