"""The value of a session's key: a head, the fingerprint, and the record from `session.rows.pack`.

The head begins with the revision, drawn at random for every commit: a script compares it by reading 8 bytes.
A session that is gone leaves only a head, its tombstone. A tombstone has a revision, too, so that no replica
creates a session over a tombstone that it has not seen. Little-endian throughout.
"""

from __future__ import annotations

import math
import secrets
import struct
from collections.abc import Sequence
from typing import Literal
from zlib import crc32

from app.stores import Block, Record, Tombstone

REVISION_BYTES = 8
NO_REVISION = b""  # GETRANGE's answer for a key that does not exist
PREFIX = "carryover:{"  # the session is the hash tag, which chooses the slot in a cluster
NAMES_PREFIX = "carryover:names:"  # the names of a model's sessions, in a sorted set
LABELS_PREFIX = "carryover:label:"  # the names of the sessions with a label, in a sorted set
MODELS = "carryover:models"  # the fingerprints that have such a set
INDEXED = "carryover:indexed"  # is there when the sets hold the sessions of versions before them, too

LAYOUT = 1
RECORD, EXPIRED, DELETED = 1, 2, 3
WHY: dict[int, Literal["expired", "deleted"]] = {EXPIRED: "expired", DELETED: "deleted"}
HEAD = struct.Struct("<8sIBBHqd")  # revision, CRC-32, layout, kind, length of the fingerprint, position, time
FRONT, REST = struct.Struct("<8sI"), struct.Struct("<BBHqd")  # the same, before and after the checksum
MAX_LIFETIME_SECONDS = 1e12  # the server refuses times near 2^63 milliseconds
PEEK_BYTES = 320  # of a value: enough for its head and its fingerprint


class DamagedValue(ValueError):
    """The value was not written by this module, or not for this session."""


def key(session: str) -> str:
    """The key of a session."""
    return f"{PREFIX}{session}}}"


def names_key(fingerprint: str) -> str:
    """The key of the names of a model's sessions."""
    return f"{NAMES_PREFIX}{fingerprint}"


def label_key(label: str) -> str:
    """The key of the names of the sessions with a label."""
    return f"{LABELS_PREFIX}{label}"


def session_of(name: str) -> str:
    """The session that a key belongs to."""
    return name[len(PREFIX) : -1]


def draw_revisions(count: int) -> list[bytes]:
    """New random revisions: two replicas never draw the same, even for sessions at the same position."""
    drawn = secrets.token_bytes(REVISION_BYTES * count)
    return [drawn[i : i + REVISION_BYTES] for i in range(0, len(drawn), REVISION_BYTES)]


def pack_block(block: Block, revisions: Sequence[bytes]) -> list[bytes]:
    """The values of these sessions."""
    fingerprint = block.fingerprint.encode()
    size, columns = len(fingerprint), (block.sessions, block.positions, block.deadlines, block.bodies)
    return [
        _sealed(session, revision, REST.pack(LAYOUT, RECORD, size, position, deadline) + fingerprint, body)
        for session, position, deadline, body, revision in zip(*columns, revisions, strict=True)
    ]


def pack_tombstone(tombstone: Tombstone, revision: bytes) -> bytes:
    """The value of a session that is gone."""
    kind = EXPIRED if tombstone.reason == "expired" else DELETED
    rest = REST.pack(LAYOUT, kind, 0, tombstone.position, tombstone.removed)
    return _sealed(tombstone.session, revision, rest, b"")


def unpack(session: str, value: bytes) -> Record | Tombstone:
    """The record or the tombstone of a value.

    Raises
    ------
    DamagedValue : its checksum does not match for this session, or its layout is unknown
    """
    if len(value) < HEAD.size:
        raise DamagedValue(f"it has only {len(value)} bytes")
    revision, crc, layout, kind, length, position, time = HEAD.unpack_from(value)
    if crc != crc32(value[FRONT.size :], crc32(revision + session.encode())) or layout != LAYOUT:
        raise DamagedValue("the checksum or the layout is wrong")
    if kind == RECORD:
        body = HEAD.size + length
        return Record(session, value[HEAD.size : body].decode(), time, value[body:], position)
    return Tombstone(session, position, WHY[kind], time)


def peek(head: bytes) -> tuple[str, float] | None:
    """(fingerprint, deadline) from the head of a session's value; None when it is gone or cannot be read."""
    if len(head) < HEAD.size:
        return None
    _, _, _, kind, length, _, deadline = HEAD.unpack_from(head)
    try:
        return (head[HEAD.size : HEAD.size + length].decode(), deadline) if kind == RECORD else None
    except UnicodeDecodeError:
        return None


def lifetime_milliseconds(deadline: float, now: float, tombstone_seconds: float) -> bytes:
    """How long a value is kept; b"" is for ever. An expired session is kept as long as a tombstone.

    Raises
    ------
    ValueError : the server would refuse it
    """
    seconds = max(deadline - now, 0.0) + tombstone_seconds
    if math.isinf(seconds):
        return b""
    if not seconds < MAX_LIFETIME_SECONDS:
        raise ValueError(f"a lifetime of {seconds:g} s is out of range")
    return b"%d" % max(1, round(1000 * seconds))


def _sealed(session: str, revision: bytes, rest: bytes, body: bytes) -> bytes:
    crc = crc32(body, crc32(rest, crc32(revision + session.encode())))
    return b"".join((FRONT.pack(revision, crc), rest, body))
