"""The forecasts and long chunks, which take several batches.

Each batch takes a limited number of them, and connections alternate. A long chunk is *begun* once a slice of
it was computed. It will change its session's row, which therefore must not be evicted. So only a limited
number of chunks may be begun at once. A forecast works on a copy of the carry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from app.errors import Unavailable
from app.jobs.jobs import Advance, Job, is_cancelled
from app.session.names import tenant_of

Owner = tuple[str, int]  # the tenant, and the id of the connection if there are no tenants


class SlowJobs:
    """Slow jobs between two of their batches. No other job of their sessions runs.

    Parameters
    ----------
    max_begun : chunks that may be begun at once
    """

    def __init__(self, max_begun: int) -> None:
        self.max_begun = max_begun
        self._waiting: dict[Owner, deque[Job]] = {}  # jobs by owner; the first owner is next
        self._begun: dict[int, Advance] = {}  # chunks, by id
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Job]:
        for jobs in self._waiting.values():
            yield from jobs

    @property
    def may_begin(self) -> int:
        """Number of chunks that may be begun in the next batch."""
        return max(self.max_begun - len(self._begun), 0)

    @property
    def pinned(self) -> set[str]:
        """Sessions of begun chunks. Their rows must not be evicted."""
        return {job.session for job in self._begun.values()}

    def put(self, jobs: Iterable[Job]) -> None:
        """Add jobs that continue or begin in a later batch."""
        for job in jobs:
            self._waiting.setdefault(_owner(job), deque()).append(job)
            self._count += 1
            if type(job) is Advance and job.progress is not None:
                self._begun[id(job)] = job

    def take(self, count: int) -> list[Job]:
        """Take up to `count` jobs for the next batch, one of each owner in turn."""
        taken: list[Job] = []
        while self._waiting and len(taken) < count:
            owner = next(iter(self._waiting))
            jobs = self._waiting.pop(owner)
            taken.append(self._pop(jobs))
            if jobs:
                self._waiting[owner] = jobs
        return taken

    def drop_cancelled(self) -> list[Job]:
        """Remove the jobs whose client has disconnected. Nothing of them was applied."""
        if not any(map(is_cancelled, self)):
            return []
        everything = self.drain()
        self.put(job for job in everything if not is_cancelled(job))
        return [job for job in everything if is_cancelled(job)]

    def drain(self) -> list[Job]:
        """Remove every job."""
        return self.take(self._count)

    def _pop(self, jobs: deque[Job]) -> Job:
        job = jobs.popleft()
        self._begun.pop(id(job), None)
        self._count -= 1
        return job


def cancelled_error() -> Unavailable:
    """The answer of a job whose client has disconnected. Nobody reads it."""
    return Unavailable("the client closed its connection; nothing was applied")


def _owner(job: Job) -> Owner:
    """The owner that a job counts for: its tenant, or its connection if there are no tenants."""
    tenant = tenant_of(job.sessions[0])
    return tenant, 0 if tenant else id(getattr(job, "client", None))
