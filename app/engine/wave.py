"""What one tick is about to change: collected, stepped and staged here, and only then published.

Nothing in a `Wave` is resident. It is thrown away when the commit fails, and the sessions are where they
were.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from app.engine import exactly_once
from app.engine.batch import Chunks
from app.errors import CarryoverError, OutOfStep
from app.jobs.answers import Advanced
from app.jobs.jobs import Advance, Forecast, Job, Outcome
from app.session import remembered
from app.session.names import shown
from app.session.rows import Answer, Floats, Ints, Rows, scalar
from app.session.slab import Slab
from app.stores import Tombstone
from models.adaptation.learner import Judged
from models.compiled import FLOAT, changed, column, compiled
from models.forecaster import Forecaster

Seconds = npt.NDArray[np.float64]


class Late(Exception):
    """The session's time to live has passed: bury it first, then ask again."""


@dataclass(slots=True)
class Staged:
    """The next state of some rows of one slab."""

    slab: Slab
    sessions: Sequence[str]
    rows: Ints
    after: Rows


@dataclass(slots=True)
class Wave:
    """One tick's work. `now` is the time that all of it happens at, in seconds since 1970."""

    now: float
    chunks: dict[Slab, Chunks] = field(default_factory=dict)
    long: list[tuple[Slab, int, Advance]] = field(default_factory=list)  # with progress, still advancing
    rolling: list[tuple[Slab, int, Advance | Forecast]] = field(default_factory=list)
    born: dict[str, tuple[Slab, int]] = field(default_factory=dict)  # rows taken, not published yet
    together: dict[int, tuple[Slab, Ints]] = field(
        default_factory=dict
    )  # by id of the job: where all its are
    late: Sequence[Job] = ()  # whose session had expired: asked again behind its burial
    under_way: list[Job] = field(default_factory=list)  # go on in the next wave
    fetched: Collection[str] = ()  # sessions that were looked for in the store
    tombstones: dict[str, Tombstone | CarryoverError] = field(default_factory=dict)  # or why it is not here
    staged: list[Staged] = field(default_factory=list)
    judged: list[tuple[Forecaster, Judged]] = field(default_factory=list)  # of what was stepped
    buried: list[tuple[Slab, Tombstone]] = field(default_factory=list)
    divided: dict[int, tuple[Job, Sequence[Job]]] = field(default_factory=dict)  # by id of the job
    leaving: dict[str, Slab] = field(default_factory=dict)  # of sessions that change it: the one they were in
    moved: list[tuple[Job, Outcome]] = field(default_factory=list)  # answers that hold once committed
    settled: list[tuple[Job, Outcome]] = field(default_factory=list)  # answers that hold anyway

    def chunks_of(self, slab: Slab) -> Chunks:
        """The columns that the plain chunks of this slab's sessions go to."""
        try:
            return self.chunks[slab]
        except KeyError:
            self.chunks[slab] = group = Chunks(slab)
            return group

    def divide(self, job: Job, parts: Sequence[Job]) -> None:
        """From here on the parts are answered in place of the job."""
        self.divided[id(job)] = (job, parts)

    def undivided(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """The jobs, or what they were divided into: those whose `reply` is to be called."""
        for job in jobs:
            _, parts = self.divided.get(id(job), (job, None))
            if parts is None:
                yield job
            else:
                yield from self.undivided(parts)

    def refuse(self, job: Job, error: CarryoverError) -> None:
        self.settled.append((job, error))

    def settle(self, slab: Slab, job: Advance, rows: Rows, i: int, digest: int) -> None:
        """Answer a chunk that is not where its session is: again, or no. `rows[i]` is the session."""
        epoch = scalar(rows.headers, "epoch", i)
        try:
            exactly_once.check_epoch(job.session, epoch, job.epoch, scalar(rows.headers, "position", i))
            if job.at is None:
                raise OutOfStep(f"session {shown(job.session)!r} moved meanwhile")
            position, answer = exactly_once.answered_before(
                rows, i, job.session, job.at, len(job.observations), digest
            )
        except CarryoverError as error:
            self.refuse(job, error)
            return
        model = slab.forecaster.artifact.name
        self.settled.append((job, Advanced(job.session, model, position, epoch, True, answer)))

    def stage(self, slab: Slab, sessions: Sequence[str], rows: Ints, after: Rows) -> None:
        self.staged.append(Staged(slab, sessions, rows, after))

    def end(self, slab: Slab, session: str, after: Rows, i: int) -> None:
        """Forget a session behind its last chunk; `after[i]` is where that left it."""
        position = scalar(after.headers, "position", i)
        self.buried.append((slab, Tombstone(session, position, "deleted", self.now)))

    def judge(self, forecaster: Forecaster, judged: Judged | None) -> None:
        """Sessions that keep their errors met observations; counted once the wave is published."""
        if judged is not None and forecaster.learning.judges:
            self.judged.append((forecaster, judged))

    def fail(self, error: CarryoverError) -> None:
        """The commit failed: everything that would have moved is answered with this, and nothing moves."""
        self.settled += [(job, error) for job, _ in self.moved]
        self.moved.clear()
        self.staged.clear()
        self.judged.clear()
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
    before : [batch], whose headers are a copy that is used up
    carries : [batch, carry_size], after the step
    lengths, digests : [batch]
    last : [batch, outputs], the prediction behind each chunk
    long : by index, answers of more than that prediction
    now : seconds since 1970
    """
    headers = before.headers
    counted = headers["position"], headers["since_reset"], headers["seen"], headers["deadline"]
    _count_on(*counted, headers["ttl"], lengths, now)
    after = Rows(headers, carries, before.long)
    remembered.remember(after, lengths, digests, last, long, recent_bytes)
    return after


def touch(headers: npt.NDArray[np.void], now: float) -> None:
    """The sessions were used: their time to live begins anew."""
    headers["seen"] = now
    headers["deadline"] = now + headers["ttl"]


@compiled(
    changed("int64"), changed("int64"), changed("float64"), changed("float64"),
    column("float64"), column("int64"), FLOAT,
)  # fmt: skip
def _count_on(
    position: Ints,
    since_reset: Ints,
    seen: Seconds,
    deadline: Seconds,
    ttl: Seconds,
    lengths: Ints,
    now: float,
) -> None:
    """`touch`, and the chunks' observations counted."""
    for i in range(len(lengths)):
        position[i] += lengths[i]
        since_reset[i] += lengths[i]
        seen[i] = now
        deadline[i] = now + ttl[i]
