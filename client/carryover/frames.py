"""Binary messages of a session's socket: a chunk out, its answer in; little-endian, float32.

a chunk                                     its answer
0   u8    0                                 0   u8    0
1   u8    0                                 1   u8    1: replayed
2   u16   numbers in an observation         2   u16   numbers in a prediction
4   u32   horizon                           4   u32   predictions; what follows them is the forecast
8   i64   at                                8   i64   position behind the chunk
16  u64   epoch; 0: none                    16  u64   epoch
24  f32   observations, row after row       24  f32   predictions, then the forecast, row after row
"""

from __future__ import annotations

import struct
from typing import Any

HEADER = struct.Struct("<BBHIqQ")


def message(floats: Any, at: int, epoch: str | None, horizon: int) -> bytes:
    """A chunk, [steps, inputs], as bytes."""
    number = int(epoch, 16) if epoch else 0
    head = HEADER.pack(0, 0, floats.shape[1], horizon, at, number)
    return b"".join((head, floats.tobytes()))


def answer(data: bytes, flat: bool) -> dict[str, Any]:
    """The same that the JSON of an answer says, with arrays for lists.

    Raises
    ------
    ValueError : it is no such message
    """
    import numpy as np

    if len(data) < HEADER.size:
        raise ValueError("a binary answer is cut short")
    _, replayed, outputs, steps, position, epoch = HEADER.unpack_from(data)
    rows = np.frombuffer(data, "<f4", offset=HEADER.size)
    if not (flat and outputs == 1):
        rows = rows.reshape(-1, max(outputs, 1))
    told = {
        "position": position,
        "epoch": f"{epoch:016x}",
        "replayed": bool(replayed),
        "predictions": rows[:steps],
    }
    if len(rows) > steps:
        told["forecast"] = rows[steps:]
    return told
