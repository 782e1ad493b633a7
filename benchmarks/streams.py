"""The observations that sessions send: a stream of its own for each, in a short cycle of chunks."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CYCLE = 8
"""Chunks in a session's cycle: few enough to be made beforehand, enough to tell one from another."""


@dataclass(frozen=True)
class Stream:
    """One session's endless stream: `CYCLE` chunks over and over, different from every other session's."""

    session: str
    steps: int

    def chunk(self, index: int) -> Array:
        """Return the observations [steps] of a turn, exact in float32 and in their printed form."""
        chunk: Array = self._cycle()[index % CYCLE]
        return chunk

    def consumed(self, position: int) -> Array:
        """Return everything [position] that a session at this position has been sent."""
        cycles = -(-position // (self.steps * CYCLE))
        return np.tile(self._cycle().reshape(-1), cycles)[:position]

    def _cycle(self) -> Array:
        phase = crc32(self.session.encode()) % 6283 / 1000.0
        times = phase + 0.1 * np.arange(CYCLE * self.steps)
        values: Array = np.round(np.sin(times), 4).reshape(CYCLE, self.steps)
        return values
