"""How long to go on trying, and how long to wait in between: exponential, with full jitter.

Source: M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015: of the ways to spread clients
that were all cut off at once, a pause drawn evenly from zero to the doubled bound makes the least work.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from carryover.errors import CarryoverError, Unavailable

log = logging.getLogger("carryover")


@dataclass(frozen=True, slots=True)
class Patience:
    """What is put up with before an error reaches the caller.

    seconds : from the first failure, or from the last progress of a stream, to giving up; 0: at the first
    first, most : bounds in seconds of the first pause and of any
    """

    seconds: float = 60.0
    first: float = 0.05
    most: float = 5.0
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[float, float], float] = random.uniform


class Pauses:
    """The pauses of one call or stream: `after` each failure, `progress` when something came through."""

    __slots__ = ("_failures", "_patience", "_since")

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.progress()

    def progress(self) -> None:
        """Whatever failed before is over."""
        self._failures = 0
        self._since = 0.0

    def after(self, error: CarryoverError) -> float:
        """Seconds to wait before the next try.

        Raises
        ------
        CarryoverError : that error, once patience is at an end
        """
        patience, now = self._patience, self._patience.clock()
        if not self._failures:
            self._since = now
        pause = patience.draw(0.0, min(patience.most, patience.first * 2.0**self._failures))
        if isinstance(error, Unavailable):
            pause += error.retry_after_seconds
        if now + pause - self._since > patience.seconds:
            raise error
        self._failures += 1
        log.log(logging.WARNING if self._failures == 1 else logging.DEBUG, "trying again: %s", error)
        return pause
