"""What a key may use, and the token bucket that limits observations a second."""

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
    """Limits of a key. None means the limit that the settings give every key.

    sessions : sessions of the key's tenant, resident or not
    observations_per_second : observations of all its sessions; as many as for one second may come at once
    body_bytes : bytes of one request
    chunk_observations : observations in one chunk
    sockets : sockets open at once
    in_flight : chunks and commands that wait for an answer at once
    """

    sessions: Count | None = None
    observations_per_second: Rate | None = None
    body_bytes: Count | None = None
    chunk_observations: Count | None = None
    sockets: Count | None = None
    in_flight: Count | None = None

    def within(self, settings: Settings) -> Quota:
        """Fill in the settings' limits. No limit of a key is above that of the server."""
        return Quota(
            sessions=_smaller(self.sessions or settings.key_sessions, settings.max_sessions),
            observations_per_second=self.observations_per_second
            or settings.key_observations_per_second
            or None,
            body_bytes=_smaller(self.body_bytes, settings.body_bytes),
            chunk_observations=_smaller(self.chunk_observations, settings.chunk_observations),
            sockets=_smaller(self.sockets or settings.key_sockets, settings.sockets),
            in_flight=_smaller(self.in_flight or settings.key_in_flight, settings.queue_jobs),
        )


def _smaller(limit: int | None, other: int) -> int:
    return other if not limit else min(limit, other)


class TokenBucket:
    """A token bucket that grants on credit. A request is granted while the bucket is not empty.

    So a chunk of any length is granted sooner or later. Over any time no more is granted than the rate
    allows, and one second's worth beyond.

    Parameters
    ----------
    rate : tokens a second
    clock : seconds, never going back
    workers : that have such a bucket; each holds its part of a second's tokens and is refilled by the whole
        rate, less what the others have granted
    """

    __slots__ = ("_at", "_capacity", "_clock", "_granted", "_level", "rate")

    def __init__(self, rate: float, clock: Callable[[], float] = monotonic, workers: int = 1) -> None:
        self.rate = rate
        self._clock = clock
        self._capacity = self._level = rate / workers
        self._granted = 0  # since `take_granted`
        self._at = clock()

    def take(self, count: int) -> float:
        """Take `count` tokens. Returns 0; or, if none were taken, in how many seconds to try again."""
        if seconds := self.seconds_to_wait():
            return seconds
        self._level -= count
        self._granted += count
        return 0.0

    def seconds_to_wait(self) -> float:
        """In how many seconds a request is granted; 0 if it is granted now."""
        self._refill()
        return 0.0 if self._level > 0 else -self._level / self.rate + 1e-3

    def give_back(self, count: int) -> None:
        """Put tokens back that were taken for nothing."""
        self._refill()
        self._level = min(self._capacity, self._level + count)
        self._granted -= count

    def holds(self, count: int) -> bool:
        """Whether `count` tokens are there to be taken without credit."""
        self._refill()
        return self._level >= count

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self.rate)
        self._at = now

    def take_granted(self) -> int:
        """How many tokens were granted since the last call."""
        granted, self._granted = self._granted, 0
        return granted

    def deduct(self, count: int) -> None:
        """Count tokens that another worker has granted."""
        self._refill()
        self._level -= count


def quota_error(quota: str, allowed: float, owner: str, seconds: float = 1.0) -> OverLimit:
    """The error for a request that exceeds this quota of a key."""
    detail = f"{owner} may have at most {allowed:g} {quota.replace('_', ' ')}"
    return OverLimit(detail, math.ceil(seconds), quota=quota, limit=allowed)
