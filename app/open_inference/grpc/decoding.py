"""Decodes protobuf messages whose number of parts is bounded.

A message of 8 MiB can have four million parts of two bytes. protobuf would need seconds and several hundred
MiB to decode them, so they are counted first, without decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError

from app.errors import Malformed, TooLarge
from app.open_inference.grpc.messages import message

MAX_PARTS = 10_000

PACKED = "packed"  # integers of one byte or more each
Layout: TypeAlias = Mapping[int, "Layout | str"]  # by field number; a field that is not here has no parts

_CONTENTS: Layout = dict.fromkeys(range(1, 6), PACKED)
_INPUT: Layout = {3: PACKED, 4: {}, 5: _CONTENTS}
_OUTPUT: Layout = {2: {}}
LAYOUTS: Mapping[str, Layout] = {"ModelInferRequest": {4: {}, 5: _INPUT, 6: _OUTPUT}}

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def decode_message(name: str, data: bytes) -> Any:
    """The message of this name.

    Raises
    ------
    Malformed : the bytes are not such a message
    TooLarge : it has too many parts
    """
    try:
        _count_parts(memoryview(data), LAYOUTS.get(name, {}), 0)
        return message(name).FromString(data)
    except (DecodeError, IndexError):
        raise Malformed(f"the request is not a valid {name} message") from None


def _count_parts(data: memoryview, layout: Layout, count: int) -> int:
    for number, payload in _fields(data):
        part = layout.get(number, {})
        count += len(payload) if part is PACKED else 1
        if count > MAX_PARTS:
            raise TooLarge(f"a request has at most {MAX_PARTS} fields and values", limit=MAX_PARTS)
        if isinstance(part, Mapping) and part:
            count = _count_parts(payload, part, count)
    return count


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and payload of each field; the payload is empty except for the wire type BYTES."""
    position, empty = 0, data[:0]
    while position < len(data):
        tag, position = _varint(data, position)
        payload, wire_type = empty, tag & 7
        if wire_type == VARINT:
            _, position = _varint(data, position)
        elif wire_type == BYTES:
            size, start = _varint(data, position)
            position = start + size
            payload = data[start:position]
        elif wire_type in (FIXED64, FIXED32):
            position += 8 if wire_type == FIXED64 else 4
        yield tag >> 3, payload


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The integer at this position, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError("a varint has at most 10 bytes")
