"""What one tick is about to change: collected, stepped and staged here, and only then published.

Nothing in a `Wave` is resident. It is thrown away when the commit fails, and the sessions are where they
were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from app import recent
from app.digest import digests
from app.errors import CarryoverError
from app.jobs import Advance, Forecast, Job, Outcome
from app.rows import Answer, Floats, Rows
from app.slab import Slab
from app.stores import Tombstone

Ints = npt.NDArray[np.int64]


class Late(Exception):
    """The session's time to live has passed: bury it first, then ask again."""


@dataclass(slots=True)
class Staged:
    """The next state of some rows of one slab."""

    slab: Slab
    sessions: Sequence[str]
    rows: Ints
    after: Rows


class Chunks:
    """The chunks of a wave that one slab's sessions take whole, in columns; one item a session.

    observations : [total, inputs], one chunk after the other; lengths, digests : [batch]
    before : the sessions as they stand, copied
    """

    __slots__ = ("before", "digests", "jobs", "lengths", "observations", "rows", "slab")

    def __init__(self, slab: Slab) -> None:
        self.slab = slab
        self.jobs: list[Advance] = []
        self.rows: list[int] = []
        self.observations: Floats
        self.lengths: Ints
        self.digests: npt.NDArray[np.uint64]
        self.before: Rows

    def read(self) -> None:
        """Fill the columns, once every job is in."""
        chunks = [job.observations for job in self.jobs]
        self.observations = np.concatenate(chunks)
        self.lengths = np.array([len(chunk) for chunk in chunks])
        self.digests = digests(self.observations, self.lengths)
        self.before = self.slab.read(np.array(self.rows))

    def keep(self, go: npt.NDArray[np.bool_]) -> None:
        """Leave the other items out."""
        which = np.flatnonzero(go)
        self.jobs = [self.jobs[i] for i in which.tolist()]
        self.rows = [self.rows[i] for i in which.tolist()]
        self.observations = self.observations[np.repeat(go, self.lengths)]
        self.lengths, self.digests = self.lengths[which], self.digests[which]
        self.before = self.before.only(which)


@dataclass(slots=True)
class Wave:
    """One tick's work. `now` is the time that all of it happens at, in seconds since 1970."""

    now: float
    chunks: dict[int, Chunks] = field(default_factory=dict)  # by id of the slab
    long: list[tuple[Slab, int, Advance]] = field(default_factory=list)  # with progress, still advancing
    rolling: list[tuple[Slab, int, Advance | Forecast]] = field(default_factory=list)
    born: dict[str, tuple[Slab, int]] = field(default_factory=dict)  # rows taken, not published yet
    under_way: list[Job] = field(default_factory=list)  # go on in the next wave
    tombstones: dict[str, Tombstone] = field(default_factory=dict)  # of the wave's sessions that are gone
    staged: list[Staged] = field(default_factory=list)
    buried: list[tuple[Slab, Tombstone]] = field(default_factory=list)
    leaving: list[tuple[Slab, str]] = field(default_factory=list)  # sessions that change their slab
    moved: list[tuple[Job, Outcome]] = field(default_factory=list)  # answers that hold once committed
    settled: list[tuple[Job, Outcome]] = field(default_factory=list)  # answers that hold anyway

    def add_chunk(self, slab: Slab, row: int, job: Advance) -> None:
        group = self.chunks.get(id(slab))
        if group is None:
            group = self.chunks[id(slab)] = Chunks(slab)
        group.jobs.append(job)
        group.rows.append(row)

    def refuse(self, job: Job, error: CarryoverError) -> None:
        self.settled.append((job, error))

    def stage(self, slab: Slab, sessions: Sequence[str], rows: Ints, after: Rows) -> None:
        self.staged.append(Staged(slab, sessions, rows, after))

    def fail(self, error: CarryoverError) -> None:
        """The commit failed: everything that would have moved is answered with this, and nothing moves."""
        self.settled += [(job, error) for job, _ in self.moved]
        self.moved.clear()
        self.staged.clear()
        self.buried.clear()
        self.leaving.clear()


def moved_on(
    before: Rows,
    carries: Floats,
    lengths: Ints,
    digests: npt.NDArray[np.uint64],
    last: Floats,
    long: dict[int, Answer],
    now: float,
    recent_bytes: int,
) -> Rows:
    """The sessions after their chunks.

    Parameters
    ----------
    before : [batch], a copy that is used up
    carries : [batch, carry_size], after the step
    lengths, digests : [batch]
    last : [batch, outputs], the prediction behind each chunk
    long : by index, answers of more than that prediction
    now : seconds since 1970
    """
    headers = before.headers
    headers["position"] += lengths
    headers["since_reset"] += lengths
    touch(headers, now)
    after = Rows(headers, carries, before.long)
    recent.remember(after, lengths, digests, last, long, recent_bytes)
    return after


def touch(headers: npt.NDArray[np.void], now: float) -> None:
    """The sessions were used: their time to live begins anew."""
    headers["seen"] = now
    headers["deadline"] = now + headers["ttl"]
