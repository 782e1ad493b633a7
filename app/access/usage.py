"""What a key has in use: jobs, observations a second, sockets."""

from __future__ import annotations

from typing import Protocol

from app.access.keys import Key
from app.access.quotas import Quota, TokenBucket, quota_error
from app.config import Settings
from app.engine.fair_share import TenantShare
from app.errors import Overloaded, TooLarge
from app.jobs.jobs import Advance, AdvanceMany, Job, Write


class Revocable(Protocol):
    """A long-lived connection, which is closed when its key is removed."""

    def revoke(self) -> None:
        """Close the connection, because its key was removed."""


class OpenSockets(set[Revocable]):
    """The open sockets of all keys. `elsewhere` is how many other workers have."""

    elsewhere = 0


class Usage:
    """What a key has in use, over all connections that send it.

    Parameters
    ----------
    share : share of the key's tenant
    key : None where the server has no keys
    server_bucket : token bucket for the observations of all keys
    all_sockets : the open sockets of all keys
    """

    def __init__(
        self,
        settings: Settings,
        share: TenantShare,
        key: Key | None = None,
        server_bucket: TokenBucket | None = None,
        all_sockets: OpenSockets | None = None,
    ) -> None:
        self.share = share
        self.tenant = share.tenant
        self.quota = key.limits.within(settings) if key is not None else Quota()
        self._most_in_flight = self.quota.in_flight or settings.queue_jobs
        self._longest_chunk = self.quota.chunk_observations or settings.chunk_observations
        self._most_sockets = settings.sockets
        self._all_sockets = all_sockets if all_sockets is not None else OpenSockets()
        self.owner = f"key {key.name!r}" if key is not None else "the server"
        rate = self.quota.observations_per_second
        self.bucket = TokenBucket(rate, workers=settings.workers) if rate and key is not None else None
        self.server_bucket = server_bucket
        self.is_limited = key is not None or server_bucket is not None
        self.in_flight = 0
        self.sockets: set[Revocable] = set()
        self.sockets_elsewhere = 0  # of this key, at other workers

    @property
    def room(self) -> int:
        """Chunks that may be queued beside those in flight."""
        return min(self.share.room, max(0, self._most_in_flight - self.in_flight))

    def covers(self, observations: int) -> bool:
        """Whether the rates have as many observations left, without any credit."""
        own, all_keys = self.bucket, self.server_bucket
        return (own is None or own.holds(observations)) and (all_keys is None or all_keys.holds(observations))

    def check(self, job: Job, count: int) -> None:
        """Check that a job may be queued, and take its observations from the token buckets.

        Parameters
        ----------
        count : number of sessions of the job

        Raises
        ------
        OverLimit, TooLarge, Overloaded
        """
        most = self._most_in_flight
        goes_on = type(job) is Write and job.goes_on  # with a text that was let in when it began
        if not goes_on and self.in_flight and self.in_flight + count > most:
            raise quota_error("in_flight", most, self.owner)
        if observations := _observations(job):
            self._take(*observations)

    def give_back(self, job: Job) -> None:
        """Give back the observations of a job that was checked and then not queued."""
        if observations := _observations(job):
            for bucket in (self.bucket, self.server_bucket):
                if bucket is not None:
                    bucket.give_back(observations[0])

    def acquire(self, count: int) -> None:
        """Count the chunks of `count` sessions as queued."""
        self.in_flight += count
        self.share.acquire(count)

    def release(self, count: int) -> None:
        """Count the chunks of `count` sessions as answered."""
        self.in_flight -= count
        self.share.release(count)

    def check_socket(self) -> None:
        """Check that another socket may be opened.

        Raises
        ------
        OverLimit, Overloaded
        """
        most = self.quota.sockets
        if most is not None and len(self.sockets) + self.sockets_elsewhere >= most:
            raise quota_error("sockets", most, self.owner)
        if len(self._all_sockets) + self._all_sockets.elsewhere >= self._most_sockets:
            raise Overloaded(
                f"{self._most_sockets} sockets are open already", quota="sockets", limit=self._most_sockets
            )

    def add_socket(self, socket: Revocable) -> None:
        """Count a socket that was opened."""
        self.sockets.add(socket)
        self._all_sockets.add(socket)

    def remove_socket(self, socket: Revocable) -> None:
        """Stop counting a socket."""
        self.sockets.discard(socket)
        self._all_sockets.discard(socket)

    def _take(self, count: int, longest: int) -> None:
        most = self._longest_chunk
        if longest > most:
            raise TooLarge(
                f"a chunk of {self.owner} has at most {most} observations, this chunk has {longest}",
                limit=most,
                quota="chunk_observations",
            )
        own, all_keys = self.bucket, self.server_bucket
        if own is not None and (seconds := own.seconds_to_wait()):
            raise quota_error("observations_per_second", own.rate, self.owner, seconds)
        if all_keys is not None and all_keys.seconds_to_wait():
            raise Overloaded(
                f"the server takes at most {all_keys.rate:g} observations a second",
                quota="observations_per_second",
                limit=all_keys.rate,
            )
        for bucket in (own, all_keys):  # from both or from neither: what is refused costs nothing
            if bucket is not None:
                bucket.take(count)


def _observations(job: Job) -> tuple[int, int] | None:
    """The observations that a job takes from the rates, and those of its longest chunk; None: none at all."""
    if type(job) is Advance:
        return len(job.observations), len(job.observations)
    if type(job) is AdvanceMany:
        return len(job.observations), int(job.lengths.max())
    if type(job) is Write and not job.goes_on:
        prompt = len(job.request.prompt)
        return prompt + job.request.steps, prompt
    return None
