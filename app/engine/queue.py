"""The queue of waiting jobs. Keeps the order of each session's jobs.

A session has at most one job that is ready or in the current batch. Its later jobs wait in its line. A job of
several sessions waits in the line of each, and is ready when it is first in all of them. So all ready jobs
may share a batch, and taking a batch costs time proportional to the batch, not to the number of waiting jobs.

Tenants alternate, one job each. A tenant that floods the queue gets the rest of a batch that the others do
not use, up to its share while others call (`app.engine.fair_share`). It delays them by at most the current
batch. The connections of a tenant alternate in the same way: a request of ten thousand parts delays a chunk
on another connection by one batch, and not by all its parts.

Chunks are stepped in columns. An unusual chunk or a command costs far more, so a batch takes fewer of those.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator

from app.engine.fair_share import BULK_SESSIONS_PER_CHUNK, UNLIMITED
from app.jobs.jobs import LONG_CHUNK, Advance, AdvanceMany, Forecast, Job, SeparateReplies, Write
from app.jobs.session_list import SessionNames
from app.jobs.split import set_apart
from app.session.names import tenant_of

MAX_SINGLE = 128  # unusual chunks and commands of a batch: each takes about 0.1 ms


class JobQueue:
    """The ready jobs and the lines.

    Its length is the number of chunks and commands that wait: a job of several sessions counts for each.
    """

    def __init__(self) -> None:
        self.nbytes = 0  # bytes of waiting observations
        self._ready: dict[str, _TenantJobs] = {}  # ready jobs by tenant; the first tenant is next
        self._ready_slow: list[Forecast | Write] = []  # apart, because they are slow jobs
        self._busy: set[str] = set()  # sessions that have a job ready or in the current batch
        self._lines: dict[str, deque[Job]] = {}  # by busy session, the jobs that wait for it
        self._blocked: dict[int, int] = {}  # by id of a job, in how many lines it is not first
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __bool__(self) -> bool:
        """Whether a job is ready. A job without a session can be ready, but the length does not count it."""
        return bool(self._ready or self._ready_slow)

    def add(self, job: Job) -> None:
        """Queue a job behind everything that waits for its sessions."""
        names: SessionNames = job.sessions.unique if type(job) is AdvanceMany else set(job.sessions)
        blocked = names & self._busy
        if blocked and len(names) > 1 and type(job) is AdvanceMany and isinstance(job.reply, SeparateReplies):
            for part in set_apart(job, blocked):
                self.add(part)
            return
        self.nbytes += job.nbytes
        self._waiting += len(job.sessions)
        self._busy |= names
        for session in blocked:
            self._lines.setdefault(session, deque()).append(job)
        if not blocked:
            self._make_ready(job)
        elif len(blocked) > 1:
            self._blocked[id(job)] = len(blocked)

    def take(
        self,
        max_sessions: int,
        max_bytes: int = sys.maxsize,
        share: int = UNLIMITED,
        max_single: int = MAX_SINGLE,
    ) -> list[Job]:
        """Take ready jobs, tenants and their connections alternating. At least one if any is ready.

        Parameters
        ----------
        max_sessions : limit for all jobs together; a single larger job is taken alone
        max_bytes : limit of bytes of observations; the job that reaches it is the last
        share : limit of one tenant; the job that reaches it is the last of that tenant
        max_single : limit of the jobs that are not processed in columns
        """
        taken: list[Job] = []
        sessions_left, bytes_left = max_sessions, max_bytes
        shares_left: dict[str, int] = {}
        first_next: dict[str, _TenantJobs] = {}  # tenants whose next job did not fit; first in the next batch
        last_next: dict[str, _TenantJobs] = {}  # tenants that have had their share; last in the next batch
        single_left = max_single
        while self._ready and bytes_left > 0 and sessions_left > 0:
            tenant = next(iter(self._ready))
            jobs = self._ready.pop(tenant)
            others_ready = bool(self._ready)
            share_left = shares_left.get(tenant, share)
            while jobs and bytes_left > 0 and share_left > 0:
                job = jobs.first(single=single_left > 0)
                if job is None or ((count := len(job.sessions)) > sessions_left and taken):
                    first_next[tenant] = jobs
                    break
                taken.append(jobs.pop(single=single_left > 0))
                sessions_left -= count
                bytes_left -= job.nbytes
                share_left -= 1 if count == 1 else -(-count // BULK_SESSIONS_PER_CHUNK)
                single_left -= _is_single(job)
                if others_ready:
                    break
            shares_left[tenant] = share_left
            if jobs and tenant not in first_next:
                (self._ready if share_left > 0 else last_next)[tenant] = jobs
        if first_next or last_next:
            self._ready = first_next | self._ready | last_next
        self._waiting -= max_sessions - sessions_left
        self.nbytes -= max_bytes - bytes_left
        return taken

    def take_slow(self) -> list[Forecast | Write]:
        """Take every ready forecast, and every text that can go on."""
        taken, self._ready_slow = self._ready_slow, []
        self._waiting -= len(taken)
        return taken

    def requeue(self, job: Job) -> None:
        """Make a job that was taken ready again, ahead of all others."""
        self._waiting += len(job.sessions)
        self.nbytes += job.nbytes
        tenant = _tenant(job)
        jobs = self._ready.pop(tenant) if tenant in self._ready else _TenantJobs()
        jobs.put_first(job)
        self._ready = {tenant: jobs, **self._ready}

    def finish(self, sessions: SessionNames) -> None:
        """Make the next job in each line ready, because the jobs of these sessions were answered."""
        lines = self._lines
        followed = [session for session in sessions if session in lines] if lines else ()
        # Nearly always the batch's sessions are the only ones that are busy.
        if len(sessions) == len(self._busy):
            self._busy = set()
        else:
            self._busy -= sessions
        for session in followed:
            self._busy.add(session)
            line = lines[session]
            follower = line.popleft()
            if not line:
                del lines[session]
            blocked = self._blocked.get(id(follower), 1) - 1
            if blocked:
                self._blocked[id(follower)] = blocked
            else:
                self._blocked.pop(id(follower), None)
                self._make_ready(follower)

    def drain(self) -> list[Job]:
        """Remove every waiting job, and return each once. Their sessions are busy until `finish`."""
        drained = {id(job): job for job in self.waiting_jobs()}
        self._ready, self._lines, self._blocked, self._ready_slow = {}, {}, {}, []
        self._waiting = self.nbytes = 0
        return list(drained.values())

    def waiting_jobs(self) -> Iterator[Job]:
        """Every job that waits, ready jobs first."""
        for jobs in self._ready.values():
            yield from jobs
        yield from self._ready_slow
        for line in self._lines.values():
            yield from line

    def _make_ready(self, job: Job) -> None:
        if type(job) is Forecast or type(job) is Write:
            self._ready_slow.append(job)
        else:
            tenant = _tenant(job)
            lanes = self._ready.get(tenant)
            if lanes is None:
                lanes = self._ready[tenant] = _TenantJobs()
            lanes.add(job)


class _TenantJobs:
    """The ready jobs of one tenant. Connections alternate, one job each.

    Chunks that are processed in columns have lanes of their own, and alternate with the other jobs. So they
    go on when a batch has enough of those. Jobs whose connection is not known share a lane: they are small,
    or were joined from many connections.
    """

    __slots__ = ("_columns", "_single", "_single_is_next")

    def __init__(self) -> None:
        # By connection; the first is next, and none is empty.
        self._columns: dict[int, deque[Job]] = {}
        self._single: dict[int, deque[Job]] = {}
        self._single_is_next = False

    def __bool__(self) -> bool:
        return bool(self._columns or self._single)

    def __iter__(self) -> Iterator[Job]:
        for jobs in (*self._columns.values(), *self._single.values()):
            yield from jobs

    def first(self, *, single: bool) -> Job | None:
        """The job that `pop` returns next; None if there is none.

        Parameters
        ----------
        single : whether it may be a job that is processed by itself
        """
        lanes = self._next_lanes(single=single)
        return next(iter(lanes.values()))[0] if lanes else None

    def add(self, job: Job) -> None:
        """Add a job behind those of its connection."""
        lanes, lane = self._single if _is_single(job) else self._columns, _lane(job)
        jobs = lanes.get(lane)
        if jobs is None:
            lanes[lane] = deque((job,))
        else:
            jobs.append(job)

    def put_first(self, job: Job) -> None:
        """Add a job ahead of all others."""
        self._single_is_next = _is_single(job)
        lanes, lane = self._single if self._single_is_next else self._columns, _lane(job)
        jobs = lanes.pop(lane, deque())
        jobs.appendleft(job)
        behind = dict(lanes)
        lanes.clear()
        lanes[lane] = jobs
        lanes |= behind

    def pop(self, *, single: bool) -> Job:
        """Remove the next job. Its connection is last from then on."""
        lanes = self._next_lanes(single=single)
        self._single_is_next = lanes is self._columns
        lane = next(iter(lanes))
        jobs = lanes[lane]
        job = jobs.popleft()
        if not jobs:
            del lanes[lane]
        elif len(lanes) > 1:
            del lanes[lane]
            lanes[lane] = jobs
        return job

    def _next_lanes(self, *, single: bool) -> dict[int, deque[Job]]:
        if single and self._single and (self._single_is_next or not self._columns):
            return self._single
        return self._columns


def _is_single(job: Job) -> bool:
    """Whether a job is processed by itself, and not in columns with others."""
    return type(job) is not AdvanceMany and (type(job) is not Advance or job.is_unusual(LONG_CHUNK))


def _lane(job: Job) -> int:
    """The connection that a job came in on; 0 where that is not known."""
    client = getattr(job, "client", None)
    return 0 if client is None else id(client)


def _tenant(job: Job) -> str:
    """The tenant that a job counts for. A job without a session counts for the tenant without a name."""
    return tenant_of(job.sessions[0]) if job.sessions else ""
