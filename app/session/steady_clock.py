"""Time since 1970 that a change of the machine's clock does not move while the process runs."""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Seconds since 1970: the wall clock when it was made, and the monotonic clock from there on.

    A step of the wall clock would otherwise count as idle time of every session.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()

    def __call__(self) -> float:
        return self._offset + self._monotonic()
