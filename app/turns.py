"""Jobs that wait, in the order that sessions must see them.

A session has one job at a time: ready or under way. What comes for it meanwhile stands in its line, and a
job of several sessions stands in each of their lines and is ready when it leads them all. So whatever is
ready may share a wave, and taking a wave costs its own length however much waits behind it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator

from app.jobs import Advance, Job


class Turns:
    """The lines. `len` is how many sessions' turns wait, a job of several sessions counting for each."""

    def __init__(self) -> None:
        self._ready: deque[Job] = deque()
        self._lines: dict[str, deque[Job] | None] = {}  # of sessions that have a job ready or under way
        self._blocked: dict[int, int] = {}  # by id of the job: lines of several that it does not lead yet
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __bool__(self) -> bool:
        """Whether anything is ready: a job of no session counts for none, and waits all the same."""
        return bool(self._ready)

    def add(self, job: Job) -> None:
        """Behind everything that waits for its sessions."""
        sessions = job.sessions
        self._waiting += len(sessions)
        if self._lines.keys().isdisjoint(sessions):
            self._lines.update(dict.fromkeys(sessions))
            self._ready.append(job)
            return
        blocked = 0
        for session in dict.fromkeys(sessions):
            if session not in self._lines:
                self._lines[session] = None
                continue
            blocked += 1
            line = self._lines[session]
            if line is None:
                self._lines[session] = deque((job,))
            else:
                line.append(job)
        if blocked > 1:
            self._blocked[id(job)] = blocked

    def take(self, most: int, most_bytes: int = sys.maxsize) -> list[Job]:
        """Ready jobs, oldest first, of up to `most` sessions together; at least one, if there is one.

        The one that reaches `most_bytes` of observations is the last.
        """
        taken: list[Job] = []
        left = most
        ready = self._ready
        while ready and most_bytes > 0:
            job = ready[0]
            count = 1 if type(job) is Advance else len(job.sessions)
            if count > left and taken:
                break
            ready.popleft()
            taken.append(job)
            left -= count
            most_bytes -= job.nbytes
        self._waiting -= most - left
        return taken

    def again(self, job: Job) -> None:
        """Ready once more, ahead of the others: it was taken and could not be done yet."""
        self._waiting += len(job.sessions)
        self._ready.appendleft(job)

    def finish(self, sessions: Iterable[str]) -> None:
        """The jobs of these sessions were answered: whoever stands behind them moves up."""
        lines = self._lines
        sessions = list(sessions)
        left = list(map(lines.pop, sessions))
        followed = zip(sessions, left, strict=True) if any(left) else ()
        for session, line in followed:
            if line is None:
                continue
            follower = line.popleft()
            lines[session] = line or None
            still = self._blocked.get(id(follower), 1) - 1
            if still:
                self._blocked[id(follower)] = still
            else:
                self._blocked.pop(id(follower), None)
                self._ready.append(follower)

    def waiting(self) -> Iterator[Job]:
        """Every job that waits, ready ones first."""
        yield from self._ready
        for line in self._lines.values():
            yield from line or ()
