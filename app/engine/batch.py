"""What one tick is about to change: collected, stepped and staged here, and only then published.

Nothing in a `Batch` is resident. It is thrown away when the commit fails, and the sessions are where they
were.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from app.engine import exactly_once
from app.engine.chunk_columns import ChunkColumns
from app.errors import CarryoverError, OutOfStep
from app.jobs.answers import ChunkAnswer
from app.jobs.jobs import Advance, Forecast, Job, Outcome
from app.session import recent_answers
from app.session.names import id_of
from app.session.rows import Answer, Rows, scalar
from app.session.slab import Slab
from app.stores import Tombstone
from models.adaptation.learner import Scores
from models.arrays import Digests, Floats, Headers, Ints, Seconds
from models.forecaster import Forecaster
from models.jit import FLOAT, jit, readonly, writable


class SessionExpired(Exception):
    """The session's time to live has passed: bury it first, then ask again."""


@dataclass(slots=True)
class StagedRows:
    """The next state of some rows of one slab."""

    slab: Slab
    sessions: Sequence[str]
    rows: Ints
    after: Rows


@dataclass(slots=True)
class Batch:
    """One tick's work. `now` is the time that all of it happens at, in seconds since 1970."""

    now: float
    chunks: dict[Slab, ChunkColumns] = field(default_factory=dict)
    long: list[tuple[Slab, int, Advance]] = field(default_factory=list)  # with progress, still advancing
    forecasts: list[tuple[Slab, int, Advance | Forecast]] = field(default_factory=list)
    created: dict[str, tuple[Slab, int]] = field(default_factory=dict)  # rows taken, not published yet
    bulk_rows: dict[int, tuple[Slab, Ints]] = field(
        default_factory=dict
    )  # by id of the job: where all its are
    retries: Sequence[Job] = ()  # whose session had expired: asked again behind its burial
    unfinished: list[Job] = field(default_factory=list)  # go on in the next wave
    lookups: Collection[str] = ()  # sessions that were looked for in the store
    tombstones: dict[str, Tombstone | CarryoverError] = field(default_factory=dict)  # or why it is not here
    staged: list[StagedRows] = field(default_factory=list)
    scores: list[tuple[Forecaster, Scores]] = field(default_factory=list)  # of what was stepped
    removed: list[tuple[Slab, Tombstone]] = field(default_factory=list)
    splits: dict[int, tuple[Job, Sequence[Job]]] = field(default_factory=dict)  # by id of the job
    previous_slabs: dict[str, Slab] = field(
        default_factory=dict
    )  # of sessions that change it: the one they were in
    provisional_answers: list[tuple[Job, Outcome]] = field(
        default_factory=list
    )  # answers that hold once committed
    final_answers: list[tuple[Job, Outcome]] = field(default_factory=list)  # answers that hold anyway

    def chunks_of(self, slab: Slab) -> ChunkColumns:
        """The columns that the plain chunks of this slab's sessions go to."""
        try:
            return self.chunks[slab]
        except KeyError:
            self.chunks[slab] = group = ChunkColumns(slab)
            return group

    def split(self, job: Job, parts: Sequence[Job]) -> None:
        """From here on the parts are answered in place of the job."""
        self.splits[id(job)] = (job, parts)

    def expand(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """The jobs, or what they were divided into: those whose `reply` is to be called."""
        for job in jobs:
            _, parts = self.splits.get(id(job), (job, None))
            if parts is None:
                yield job
            else:
                yield from self.expand(parts)

    def refuse(self, job: Job, error: CarryoverError) -> None:
        self.final_answers.append((job, error))

    def replay_or_refuse(self, slab: Slab, job: Advance, rows: Rows, i: int, digest: int) -> None:
        """Answer a chunk that is not where its session is: again, or no. `rows[i]` is the session."""
        epoch = scalar(rows.headers, "epoch", i)
        try:
            exactly_once.check_epoch(job.session, epoch, job.epoch, scalar(rows.headers, "position", i))
            if job.at is None:
                raise OutOfStep(f"session {id_of(job.session)!r} moved meanwhile")
            position, answer = exactly_once.stored_answer(
                rows, i, job.session, job.at, len(job.observations), digest
            )
        except CarryoverError as error:
            self.refuse(job, error)
            return
        model = slab.forecaster.artifact.name
        self.final_answers.append((job, ChunkAnswer(job.session, model, position, epoch, True, answer)))

    def stage(self, slab: Slab, sessions: Sequence[str], rows: Ints, after: Rows) -> None:
        self.staged.append(StagedRows(slab, sessions, rows, after))

    def delete(self, slab: Slab, session: str, after: Rows, i: int) -> None:
        """Forget a session behind its last chunk; `after[i]` is where that left it."""
        position = scalar(after.headers, "position", i)
        self.removed.append((slab, Tombstone(session, position, "deleted", self.now)))

    def add_scores(self, forecaster: Forecaster, scores: Scores | None) -> None:
        """Sessions that keep their errors met observations; counted once the wave is published."""
        if scores is not None and forecaster.learning.tracks_errors:
            self.scores.append((forecaster, scores))

    def fail(self, error: CarryoverError) -> None:
        """The commit failed: everything that would have moved is answered with this, and nothing moves."""
        self.final_answers += [(job, error) for job, _ in self.provisional_answers]
        self.provisional_answers.clear()
        self.staged.clear()
        self.scores.clear()
        self.removed.clear()
        self.previous_slabs.clear()


def advance_rows(
    before: Rows,
    carries: Floats,
    lengths: Ints,
    digests: Digests,
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
    after = Rows(headers, carries, before.long_answers)
    recent_answers.remember(after, lengths, digests, last, long, recent_bytes)
    return after


def touch(headers: Headers, now: float) -> None:
    """The sessions were used: their time to live begins anew."""
    headers["seen"] = now
    headers["deadline"] = now + headers["ttl"]


@jit(
    writable("int64"), writable("int64"), writable("float64"), writable("float64"),
    readonly("float64"), readonly("int64"), FLOAT,
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
