"""Where a list of sessions goes on, as text: an id, or the rank of a session in a list by value.

`r` and 32 hexadecimal digits are a rank: the value's 64 bits and the epoch. `n` and an id is a session
without a value. A list by name has ids alone, which clients may make themselves.
"""

from __future__ import annotations

import math
import re
import struct

from app.errors import Unprocessable
from app.jobs.session_query import Cursor, Rank

RANK = re.compile(r"r([0-9a-f]{32})", re.ASCII)
BITS = struct.Struct(">dQ")


def encode(cursor: Cursor | None, *, by_value: bool) -> str | None:
    """The text of a cursor of a list by value, or by name."""
    if isinstance(cursor, Rank):
        return f"r{BITS.pack(cursor.value, cursor.epoch).hex()}"
    return f"n{cursor}" if by_value and cursor is not None else cursor


def decode(text: str, *, by_value: bool) -> Cursor | None:
    """The cursor of a text; None if it is empty: the list begins.

    Raises
    ------
    Unprocessable : no list by value has made it
    """
    if not by_value or not text:
        return text or None
    if (match := RANK.fullmatch(text)) is not None:
        rank = Rank(*BITS.unpack(bytes.fromhex(match[1])))
        if math.isfinite(rank.value):
            return rank
    if text[0] == "n":
        return text[1:]
    raise Unprocessable(
        "cursor must be `next` of the previous page, of a list with the same order", field="cursor"
    )
