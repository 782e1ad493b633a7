"""The chunks of a wave that one slab's sessions take whole, in columns.

What came one by one lies first, then every job of many sessions in one piece. All the work is done on
the columns; a chunk is looked at alone only when it has to be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from app.jobs.jobs import Advance, AdvanceMany
from app.jobs.split import JobParts
from app.session import recent_answers
from app.session.digest import digests
from app.session.rows import Rows
from app.session.slab import Slab
from models.arrays import Bools, Digests, Epochs, Floats, Ints

Column = TypeVar("Column", bound=np.ndarray[Any, Any])
Split = Callable[[AdvanceMany, Sequence[Advance | AdvanceMany]], None]


class ChunkColumns:
    """Chunks of as many sessions, `batch` of them. The columns are there once `read` was called.

    observations : [total, inputs], one chunk after the other; lengths, digests, rows : [batch]
    at, epochs : [batch], what the clients claim: -1 and 0 for nothing
    before : the sessions as they stand; the headers are copies, the carries may be the slab's own, to be read
        until they are written
    """

    __slots__ = (
        "at",
        "before",
        "bulk_jobs",
        "digests",
        "epochs",
        "has_options",
        "job_rows",
        "jobs",
        "lengths",
        "observations",
        "resets_or_deletes",
        "rows",
        "slab",
    )  # fmt: skip

    def __init__(self, slab: Slab) -> None:
        self.slab = slab
        self.jobs: list[Advance] = []
        self.job_rows: list[int] = []  # rows of the jobs
        self.resets_or_deletes = False  # some job resets its session first, or deletes it afterwards
        self.has_options = False  # some job has extras
        self.bulk_jobs: list[tuple[AdvanceMany, Ints]] = []  # with their rows
        self.observations: Floats
        self.lengths: Ints
        self.rows: Ints
        self.at: Ints
        self.epochs: Epochs
        self.digests: Digests
        self.before: Rows

    def __len__(self) -> int:
        return len(self.jobs) + sum(len(job) for job, _ in self.bulk_jobs)

    def read(self) -> None:
        """Fill the columns, once every job is in."""
        parts = [self._alone()] if self.jobs else []
        parts += [
            (job.observations, job.lengths, rows, _claimed(job), _claimed_epochs(job))
            for job, rows in self.bulk_jobs
        ]
        columns = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        self.observations, self.lengths, self.rows, self.at, self.epochs = columns
        self.digests = digests(self.observations, self.lengths)
        if self.has_options:
            for i, job in enumerate(self.jobs):
                if job.digest is not None:
                    self.digests[i] = job.digest
        self.before = self.slab.read(self.rows) if self.resets_or_deletes else self.slab.view(self.rows)

    def _alone(self) -> tuple[Floats, Ints, Ints, Ints, Epochs]:
        """Observations, lengths, rows, `at` and epochs of what came one by one."""
        jobs = self.jobs
        observations = [job.observations for job in jobs]
        return (
            join_columns(observations),
            np.array([len(chunk) for chunk in observations], np.int64),
            np.array(self.job_rows, np.int64),
            np.array([-1 if job.at is None else job.at for job in jobs], np.int64),
            np.array([job.epoch or 0 for job in jobs], np.uint64),
        )

    @property
    def gaps(self) -> bool:
        """Whether any number is missing."""
        return self.has_options and any(job.options is not None and job.options.gaps for job in self.jobs)

    def spans(self) -> Iterator[tuple[AdvanceMany, slice]]:
        """Where in the columns every job of many sessions lies."""
        start = len(self.jobs)
        for job, _ in self.bulk_jobs:
            yield job, slice(start, start + len(job))
            start += len(job)

    def reset_sessions(self) -> None:
        """Zero the sessions, as copied, whose chunks begin with a reset."""
        which = [i for i, job in enumerate(self.jobs) if job.reset]
        recent_answers.reset_sessions(self.before, self.slab.forecaster, which)

    def sessions(self) -> Sequence[str]:
        """The session of every column."""
        if len(self.bulk_jobs) == 1 and not self.jobs:
            return self.bulk_jobs[0][0].sessions
        names = [job.session for job in self.jobs]
        for job, _ in self.bulk_jobs:
            names += job.sessions
        return names

    def keep(self, go: Bools, split: Split) -> dict[int, Advance]:
        """Leave the other columns out; returns their chunks by column, as jobs of one session each.

        divide : told of a job that was taken to parts for it
        """
        jobs, taken = self.jobs, self.job_rows
        left_out = {i: jobs[i] for i in range(len(jobs)) if not go[i]}
        bulks = []
        for (job, rows), (_, span) in zip(self.bulk_jobs, list(self.spans()), strict=True):
            if go[span].all():
                bulks.append((job, rows))
                continue
            parts = JobParts(job)
            alone = {span.start + i: parts.single(i) for i in np.flatnonzero(~go[span]).tolist()}
            which = np.flatnonzero(go[span])
            rest = [parts.subset(which)] if len(which) else []
            bulks += [(part, rows[which]) for part in rest]
            split(job, [*rest, *alone.values()])
            left_out |= alone
        self.jobs = [jobs[i] for i in range(len(jobs)) if go[i]]
        self.job_rows = [taken[i] for i in range(len(jobs)) if go[i]]
        self.bulk_jobs = bulks
        self._compact(go)
        return left_out

    def _compact(self, go: Bools) -> None:
        self.observations = self.observations[np.repeat(go, self.lengths)]
        self.lengths, self.rows, self.digests = self.lengths[go], self.rows[go], self.digests[go]
        self.before = self.before.select(np.flatnonzero(go))


def join_columns(columns: Sequence[Column]) -> Column:
    """The columns one after the other; a single one as it is."""
    return columns[0] if len(columns) == 1 else np.concatenate(columns)  # type: ignore[return-value]


def _claimed(job: AdvanceMany) -> Ints:
    return np.full(len(job), -1, np.int64) if job.at is None else job.at


def _claimed_epochs(job: AdvanceMany) -> Epochs:
    return np.zeros(len(job), np.uint64) if job.epochs is None else job.epochs
