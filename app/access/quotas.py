"""How much: what one key may use, and the token bucket that observations a second are taken from."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import Annotated

import msgspec

from app.config import Settings
from app.errors import OverLimit

Count = Annotated[int, msgspec.Meta(ge=1)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What a key may use; None is what the server grants every key, or has at all.

    sessions : of the key's tenant, resident or not
    observations_per_second : over all its sessions; a second's worth may come at once
    body_bytes, chunk_observations : in one request, and in one chunk of it
    sockets : open at once
    in_flight : chunks and commands that wait for an answer at once
    """

    sessions: Count | None = None
    observations_per_second: Rate | None = None
    body_bytes: Count | None = None
    chunk_observations: Count | None = None
    sockets: Count | None = None
    in_flight: Count | None = None

    def within(self, settings: Settings) -> Quota:
        """The same with nothing left open that the server bounds; no key has more than the server."""
        return Quota(
            sessions=_least(self.sessions or settings.key_sessions, settings.max_sessions),
            observations_per_second=self.observations_per_second
            or settings.key_observations_per_second
            or None,
            body_bytes=_least(self.body_bytes, settings.body_bytes),
            chunk_observations=_least(self.chunk_observations, settings.chunk_observations),
            sockets=_least(self.sockets or settings.key_sockets, settings.sockets),
            in_flight=_least(self.in_flight or settings.key_in_flight, settings.queue_jobs),
        )


def _least(one: int | None, other: int) -> int:
    return other if not one else min(one, other)


class Bucket:
    """A token bucket that grants on credit: what comes while it is not empty passes, and is owed.

    So a chunk of any length passes sooner or later, and over any length of time no more than the rate and
    one second's worth of it beyond.

    Parameters
    ----------
    rate : tokens a second
    clock : seconds, never going back
    """

    __slots__ = ("_at", "_clock", "_level", "rate")

    def __init__(self, rate: float, clock: Callable[[], float] = monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._level = rate
        self._at = clock()

    def take(self, count: int) -> float:
        """Take so many tokens. Returns 0, or after how many seconds to come again: nothing was taken."""
        now = self._clock()
        self._level = min(self.rate, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level <= 0:
            return -self._level / self.rate + 1e-3
        self._level -= count
        return 0.0


def over(quota: str, allowed: float, whose: str, seconds: float = 1.0) -> OverLimit:
    """The refusal of what exceeds this quota of a key."""
    told = f"{whose} may have at most {allowed:g} {quota.replace('_', ' ')}"
    return OverLimit(told, math.ceil(seconds), quota=quota, limit=allowed)
