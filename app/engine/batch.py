"""The changes of one tick: they are collected, stepped and staged here, and only then published.

No lookup sees what is in a `Batch`. If the commit fails, the batch is discarded and no session has changed.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.engine.chunk_columns import ChunkColumns
from app.errors import CarryoverError
from app.jobs.jobs import Advance, Event, Forecast, Job, Outcome, Progress, Write
from app.jobs.session_list import SessionNames
from app.jobs.text import LENGTH, STOP
from app.session import recent_answers
from app.session.history import Observed
from app.session.rows import Answer, Rows, scalar
from app.session.slab import Slab
from app.stores import Tombstone
from models.adaptation.learner import Scores
from models.arrays import Digests, Floats, Headers, Ints, Seconds
from models.forecaster import Forecaster
from models.generation.stopping import StopWatch
from models.jit import FLOAT, jit, readonly, writable


class SessionExpired(Exception):
    """The session's time to live has passed. The engine removes the session and then runs the job again."""


@dataclass(slots=True)
class StagedRows:
    """The next state of some rows of one slab.

    observed : what the sessions observed; None: nothing
    keeps_past : whether their past stays where they observed nothing; otherwise they get another state
    """

    slab: Slab
    sessions: Sequence[str]
    rows: Ints
    after: Rows
    observed: Observed | None = None
    keeps_past: bool = False

    def publish(self) -> None:
        """Write the rows, and then their past."""
        self.slab.write(self.rows, self.after)
        histories = self.slab.histories
        if histories is None:
            return
        if self.observed is not None:
            histories.append(self.rows, self.after.headers["position"], self.observed)
        elif not self.keeps_past:
            for row in self.rows.tolist():
                histories.forget(row)


class AlertEvent(NamedTuple):
    """An alert that a session raised or cleared.

    session : the engine's name
    webhook : name of the webhook that gets it, if any
    event : what its readers get
    """

    session: str
    webhook: str | None
    event: Event


@dataclass(slots=True)
class FinishedChunk:
    """An unusual chunk that was stepped as a whole, and the row of its session.

    times : [steps], of its observations, if they are known
    """

    row: int
    job: Advance
    progress: Progress
    answer: Answer
    times: Seconds | None


@dataclass(slots=True)
class Text:
    """A text that goes on in this batch.

    row : of its session; None if it is written on a copy
    start : position at which it began
    epoch : of the session
    carry : [carry_size], as far as the text is written
    prompt : tokens of the prompt
    observed : how many of them were observed
    tokens : behind the prompt
    watch : says when it is complete
    before : how much there was before this batch: tokens of the prompt that were observed, and behind it
    digest : of the request; 0 of a text on a copy, which no session remembers
    """

    job: Write
    row: int | None
    start: int
    epoch: int
    carry: Floats
    prompt: Sequence[int]
    observed: int
    tokens: list[int]
    watch: StopWatch
    before: tuple[int, int]
    digest: int = 0

    @property
    def position(self) -> int:
        """Behind what is written."""
        return self.start + self.observed + len(self.tokens)

    @property
    def finish(self) -> str | None:
        """Why the text is complete; None if it goes on."""
        if self.watch.stopped:
            return STOP
        return LENGTH if len(self.tokens) >= self.job.request.steps else None


@dataclass(slots=True)
class Batch:
    """One tick's work.

    now : time of all its changes, seconds since 1970
    jobs : the jobs, in the order of the queue
    sessions : names of the jobs' sessions
    pinned : sessions of unfinished jobs of other batches, which must not be evicted
    may_begin : number of long chunks that may be begun
    chunks : chunks that are stepped in one pass, by slab
    unusual_chunks : slab, row and job of the unusual chunks that have observations left
    finished_chunks : the unusual chunks that end in this batch, by slab
    forecasts : slab, row and job of every forecast, including forecasts that follow a chunk
    bulk_rows : slab and rows of bulk jobs whose sessions are all resident in one slab, by id of the job
    lookups : sessions that were looked up in the store
    missing : by session that could not be loaded, its tombstone or the error
    created : slab and row of new sessions; the row is taken and not yet published
    previous_slabs : by session that gets a new row, the slab with its old row
    staged : next rows of the sessions that change
    removed : tombstones of the sessions to remove, with their slabs
    scores : scores of the observations that were stepped
    alerts : that sessions raised or cleared
    splits : jobs that were divided, with their parts, by id of the job
    texts : texts that go on in this batch, by slab
    unfinished : jobs that continue in a later batch
    retries : jobs to run again in the next batch, such as jobs of an expired session
    answers_if_committed : answers that are valid only if the batch is committed
    final_answers : answers that are valid whether the batch is committed or not
    """

    now: float
    jobs: Sequence[Job] = ()
    sessions: SessionNames = frozenset()
    pinned: SessionNames = frozenset()
    may_begin: int = sys.maxsize
    chunks: dict[Slab, ChunkColumns] = field(default_factory=dict)
    unusual_chunks: list[tuple[Slab, int, Advance]] = field(default_factory=list)
    finished_chunks: dict[Slab, list[FinishedChunk]] = field(default_factory=dict)
    forecasts: list[tuple[Slab, int, Advance | Forecast]] = field(default_factory=list)
    texts: dict[Slab, list[Text]] = field(default_factory=dict)
    bulk_rows: dict[int, tuple[Slab, Ints]] = field(default_factory=dict)
    lookups: Collection[str] = ()
    missing: dict[str, Tombstone | CarryoverError] = field(default_factory=dict)
    created: dict[str, tuple[Slab, int]] = field(default_factory=dict)
    previous_slabs: dict[str, Slab] = field(default_factory=dict)
    staged: list[StagedRows] = field(default_factory=list)
    removed: list[tuple[Slab, Tombstone]] = field(default_factory=list)
    scores: list[tuple[Forecaster, Scores]] = field(default_factory=list)
    alerts: list[AlertEvent] = field(default_factory=list)
    splits: dict[int, tuple[Job, Sequence[Job]]] = field(default_factory=dict)
    unfinished: list[Job] = field(default_factory=list)
    retries: Sequence[Job] = ()
    answers_if_committed: list[tuple[Job, Outcome]] = field(default_factory=list)
    final_answers: list[tuple[Job, Outcome]] = field(default_factory=list)

    @property
    def not_evictable(self) -> SessionNames:
        """Sessions that must not be evicted during this tick."""
        return self.sessions | self.pinned if self.pinned else self.sessions

    def chunks_of(self, slab: Slab) -> ChunkColumns:
        """Return the columns for chunks of this slab's sessions. They are made with the first chunk."""
        try:
            return self.chunks[slab]
        except KeyError:
            self.chunks[slab] = group = ChunkColumns(slab)
            return group

    def split(self, job: Job, parts: Sequence[Job]) -> None:
        """Answer the parts in place of the job."""
        self.splits[id(job)] = (job, parts)

    def reply_targets(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """The jobs whose `reply` is to be called. A divided job is replaced by its parts."""
        for job in jobs:
            _, parts = self.splits.get(id(job), (job, None))
            if parts is None:
                yield job
            else:
                yield from self.reply_targets(parts)

    def refuse(self, job: Job, error: CarryoverError) -> None:
        self.final_answers.append((job, error))

    def stage(
        self,
        slab: Slab,
        sessions: Sequence[str],
        rows: Ints,
        after: Rows,
        observed: Observed | None = None,
        *,
        keeps_past: bool = False,
    ) -> None:
        """Note the next state of these rows; see `StagedRows`."""
        self.staged.append(StagedRows(slab, sessions, rows, after, observed, keeps_past))

    def delete(self, slab: Slab, session: str, after: Rows, i: int) -> None:
        """Remove a session after its last chunk; `after[i]` is the session after that chunk."""
        position = scalar(after.headers, "position", i)
        self.removed.append((slab, Tombstone(session, position, "deleted", self.now)))

    def add_scores(self, forecaster: Forecaster, scores: Scores | None) -> None:
        """Note scores, to be counted once the batch is published, if the sessions keep their errors."""
        if scores is not None and forecaster.learning.tracks_errors:
            self.scores.append((forecaster, scores))

    def fail(self, error: CarryoverError) -> None:
        """Answer every job that would have changed a session with this error, and discard the changes."""
        self.final_answers += [(job, error) for job, _ in self.answers_if_committed]
        self.answers_if_committed.clear()
        self.staged.clear()
        self.scores.clear()
        self.alerts.clear()
        self.removed.clear()
        self.previous_slabs.clear()


def advance_rows(
    before: Rows,
    carries: Floats,
    lengths: Ints,
    digests: Digests,
    last: Floats,
    long_answers: dict[int, Answer],
    now: float,
    recent_bytes: int,
) -> Rows:
    """The sessions after their chunks.

    Parameters
    ----------
    before : [batch]; its headers are a copy, and become those of the result
    carries : [batch, carry_size], after the step
    lengths, digests : [batch]
    last : [batch, outputs], the last prediction of each chunk
    long_answers : by index, answers with more than that prediction
    now : seconds since 1970
    recent_bytes : limit of the bytes of remembered long answers of a session
    """
    headers = before.headers
    counted = headers["position"], headers["since_reset"], headers["seen"], headers["deadline"]
    count_observations(*counted, headers["ttl"], lengths, now)
    after = Rows(headers, carries, before.long_answers, before.notes)
    recent_answers.remember(after, lengths, digests, last, long_answers, recent_bytes)
    return after


def touch(headers: Headers, now: float) -> None:
    """Restart the time to live of sessions that were used; in place."""
    headers["seen"] = now
    headers["deadline"] = now + headers["ttl"]


@jit(
    writable("int64"), writable("int64"), writable("float64"), writable("float64"),
    readonly("float64"), readonly("int64"), FLOAT,
)  # fmt: skip
def count_observations(
    position: Ints,
    since_reset: Ints,
    seen: Seconds,
    deadline: Seconds,
    ttl: Seconds,
    lengths: Ints,
    now: float,
) -> None:
    """Count the chunks' observations, and restart the time to live as `touch` does; in place."""
    for i in range(len(lengths)):
        position[i] += lengths[i]
        since_reset[i] += lengths[i]
        seen[i] = now
        deadline[i] = now + ttl[i]
