"""Binary messages of a session's socket, little-endian with float32 numbers: a chunk, and its answer.

chunk                                       answer
0   u8    0                                 0   u8    0
1   u8    0                                 1   u8    1: replayed, 4: what samples are covered follows
2   u16   numbers in an observation         2   u16   numbers in a prediction
4   u32   horizon                           4   u32   number of predictions
8   i64   at                                8   i64   position after the chunk
16  u64   epoch; 0: none                    16  u64   epoch
24  f32   observations, row after row       24  f32   predictions, then the forecast, row after row
                                            ... i64   with flag 4: two positions, then two for each event
"""

from __future__ import annotations

import struct
from typing import Any

HEADER = struct.Struct("<BBHIqQ")
REPLAYED, COVERED = 1, 4
EVENTS = ("speech_end", "speech_start")


def message(floats: Any, at: int, epoch: str | None, horizon: int) -> bytes:
    """Encode a chunk [steps, inputs]."""
    number = int(epoch, 16) if epoch else 0
    head = HEADER.pack(0, 0, floats.shape[1], horizon, at, number)
    return b"".join((head, floats.tobytes()))


def answer(data: bytes, flat: bool) -> dict[str, Any]:
    """Decode an answer into the fields of its JSON form, with arrays in place of lists.

    Raises
    ------
    ValueError : the message is too short, or not a whole number of rows
    """
    import numpy as np

    if len(data) < HEADER.size:
        raise ValueError("the binary answer is incomplete")
    _, flags, outputs, steps, position, epoch = HEADER.unpack_from(data)
    numbers = steps * outputs if flags & COVERED else -1
    rows = np.frombuffer(data, "<f4", numbers, offset=HEADER.size)
    if not (flat and outputs == 1):
        rows = rows.reshape(-1, max(outputs, 1))
    fields: dict[str, Any] = {
        "position": position,
        "epoch": f"{epoch:016x}",
        "replayed": bool(flags & REPLAYED),
        "predictions": rows[:steps],
    }
    if flags & COVERED:
        covers, *events = np.frombuffer(data, "<i8", offset=HEADER.size + 4 * numbers).reshape(-1, 2).tolist()
        fields["covers"] = covers
        fields["events"] = [{"event": EVENTS[kind], "sample": sample} for kind, sample in events]
    elif len(rows) > steps:
        fields["forecast"] = rows[steps:]
    return fields
