"""Jobs that wait, in the order that sessions must see them.

A session has one job at a time: ready or under way. What comes for it meanwhile stands in its line, and a
job of several sessions stands in each of their lines and is ready when it leads them all. So whatever is
ready may share a wave, and taking a wave costs its own length however much waits behind it.

Tenants are served by turns, a job each: one that floods fills what the others leave of a wave, up to its
share where others call (`app.lanes`), and makes none of them wait for more than the wave under way.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator

from app.engine.fair_share import ALONE, BULK
from app.jobs.jobs import Advance, AdvanceMany, Job
from app.jobs.session_list import Names
from app.session.names import tenant_of

ROSTERS = 8  # kept as they are; every one of them is looked through for a session


class Turns:
    """The lines. `len` is how many sessions' turns wait, a job of several sessions counting for each."""

    def __init__(self) -> None:
        self._ready: dict[str, deque[Job]] = {}  # by tenant, who is next in front
        # Sessions that have a job ready or under way: those of a few rosters, as they are, and all others. To
        # join and part sets of a thousand takes as long as a twentieth of their step.
        self._rosters: list[Names] = []
        self._busy: set[str] = set()
        self._lines: dict[str, deque[Job]] = {}  # of those, the ones that others stand behind
        self._blocked: dict[int, int] = {}  # by id of the job: lines of several that it does not lead yet
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __bool__(self) -> bool:
        """Whether anything is ready: a job of no session counts for none, and waits all the same."""
        return bool(self._ready)

    def add(self, job: Job) -> None:
        """Behind everything that waits for its sessions."""
        if type(job) is Advance:  # nearly every job
            self._waiting += 1
            if not self._is_busy(job.session):
                self._busy.add(job.session)
                self._make_ready(job)
            else:
                self._line(job.session).append(job)
            return
        self._waiting += len(job.sessions)
        named: Names = job.sessions.once if type(job) is AdvanceMany else set(job.sessions)
        blocked = (named & self._busy).union(*(named & roster for roster in self._rosters))
        if type(job) is AdvanceMany and not blocked and len(self._rosters) < ROSTERS:
            self._rosters.append(named)
        else:
            self._busy |= named
        for session in blocked:
            self._line(session).append(job)
        if not blocked:
            self._make_ready(job)
        elif len(blocked) > 1:
            self._blocked[id(job)] = len(blocked)

    def _make_ready(self, job: Job) -> None:
        tenant = _tenant(job)
        try:
            self._ready[tenant].append(job)
        except KeyError:
            self._ready[tenant] = deque((job,))

    def _is_busy(self, session: str) -> bool:
        if session in self._busy:
            return True
        # Nearly always there is none; asked so, none costs nothing.
        return bool(self._rosters) and any(session in roster for roster in self._rosters)

    def _part_with(self, sessions: Names) -> None:
        """These are busy no longer."""
        for place, roster in enumerate(self._rosters):
            if roster is sessions:  # whoever of them is among the others, too, is there for who follows
                del self._rosters[place]
                return
        if not self._rosters and len(sessions) == len(self._busy):  # they are those: nobody is looked up
            self._busy = set()
            return
        self._rosters = [rest for roster in self._rosters if (rest := _without(roster, sessions))]
        self._busy -= sessions

    def _line(self, session: str) -> deque[Job]:
        """Where those wait whose session has a job already."""
        return self._lines.setdefault(session, deque())

    def take(self, most: int, most_bytes: int = sys.maxsize, share: int = ALONE) -> list[Job]:
        """Ready jobs, tenants by turns and oldest first, of up to `most` sessions together; at least one.

        The one that reaches `most_bytes` of observations is the last, and that which reaches its tenant's
        `share` of a wave the last of that tenant.
        """
        taken: list[Job] = []
        left = most
        shares: dict[str, int] = {}  # what is left of each
        leading: dict[str, deque[Job]] = {}  # tenants whose next job did not fit: they lead the next wave
        served: dict[str, deque[Job]] = {}  # tenants that have had their share
        while self._ready and most_bytes > 0 and left > 0:
            tenant = next(iter(self._ready))
            jobs = self._ready.pop(tenant)
            others = bool(self._ready)
            mine = shares.get(tenant, share)
            while jobs and most_bytes > 0 and mine > 0:
                count = 1 if type(jobs[0]) is Advance else len(jobs[0].sessions)
                if count > left and taken:
                    leading[tenant] = jobs
                    break
                taken.append(job := jobs.popleft())
                left -= count
                most_bytes -= job.nbytes
                mine -= 1 if count == 1 else -(-count // BULK)
                if others:
                    break
            shares[tenant] = mine
            if jobs and tenant not in leading:
                (self._ready if mine > 0 else served)[tenant] = jobs
        if leading or served:
            self._ready = leading | self._ready | served
        self._waiting -= most - left
        return taken

    def again(self, job: Job) -> None:
        """Ready once more, ahead of the others: it was taken and could not be done yet."""
        self._waiting += len(job.sessions)
        tenant = _tenant(job)
        self._ready = {tenant: self._ready.pop(tenant, deque()), **self._ready}
        self._ready[tenant].appendleft(job)

    def finish(self, sessions: Names) -> None:
        """The jobs of these sessions were answered: whoever stands behind them moves up."""
        lines = self._lines
        followed = [session for session in sessions if session in lines] if lines else ()
        self._part_with(sessions)
        for session in followed:
            self._busy.add(session)
            line = lines[session]
            follower = line.popleft()
            if not line:
                del lines[session]
            still = self._blocked.get(id(follower), 1) - 1
            if still:
                self._blocked[id(follower)] = still
            else:
                self._blocked.pop(id(follower), None)
                self._make_ready(follower)

    def waiting(self) -> Iterator[Job]:
        """Every job that waits, ready ones first."""
        for jobs in self._ready.values():
            yield from jobs
        for line in self._lines.values():
            yield from line


def _without(roster: Names, sessions: Names) -> Names:
    return roster if roster.isdisjoint(sessions) else roster - sessions


def _tenant(job: Job) -> str:
    """Whose job it is; one of no session is nobody's, and waits its turn like anybody's."""
    if type(job) is Advance:
        return tenant_of(job.session) if job.use is None else job.use.lane.tenant
    return tenant_of(job.sessions[0]) if job.sessions else ""
