"""Retries: how long to repeat a failed request, with pauses that grow exponentially and have full jitter.

Source: M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015. After many clients were
disconnected at once, a pause drawn evenly between zero and the doubled bound causes the fewest requests.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from carryover.errors import CarryoverError, TlsFailed, Unavailable

log = logging.getLogger("carryover")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long failures are retried before an error reaches the caller.

    seconds : longest time without progress before the error is raised; 0: it is raised at once
    first_pause, max_pause : upper bounds of the first pause and of every pause, in seconds
    clock : a monotonic clock, in seconds
    draw : a random number between two bounds
    """

    seconds: float = 60.0
    first_pause: float = 0.05
    max_pause: float = 5.0
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[float, float], float] = random.uniform


class Pauses:
    """The pauses of one call or stream. Call `after` for each failure, and `progress` after each success."""

    __slots__ = ("_failures", "_policy", "_since")

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.progress()

    def progress(self) -> None:
        """Start counting failures and time anew."""
        self._failures = 0
        self._since = 0.0

    def after(self, error: CarryoverError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises
        ------
        CarryoverError : the given error, when the policy's time is over, or when no time mends it
        """
        if isinstance(error, TlsFailed):
            raise error
        policy, now = self._policy, self._policy.clock()
        if not self._failures:
            self._since = now
        pause = policy.draw(0.0, min(policy.max_pause, policy.first_pause * 2.0**self._failures))
        if isinstance(error, Unavailable):
            pause += error.retry_after_seconds
        if now + pause - self._since > policy.seconds:
            raise error
        self._failures += 1
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        log.log(level, "trying again%s: %s", _limit_text(policy.seconds), error)
        return pause


def _limit_text(seconds: float) -> str:
    return f" for up to {seconds:g} s" if math.isfinite(seconds) else ""
