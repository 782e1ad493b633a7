"""The short chunks of a batch for one slab's sessions, in columns.

The chunks of single jobs come first, then those of each bulk job in one piece. All work is done on the
columns. A chunk is handled alone only when it is left out.
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
from models.arrays import Bools, Digests, Epochs, Ints, Numbers

Column = TypeVar("Column", bound=np.ndarray[Any, Any])
Split = Callable[[AdvanceMany, Sequence[Advance | AdvanceMany]], None]


class ChunkColumns:
    """Chunks, each of another session. `fill` makes the columns once every job was added.

    jobs, job_rows : single jobs, and the rows of their sessions
    bulk_jobs : bulk jobs, each with the rows of its sessions
    resets_or_deletes : whether a job resets its session first, or deletes it afterwards
    has_options : whether a job has options
    observations : [total, inputs], one chunk after the other
    lengths, digests, rows : [batch]
    at, epochs : [batch], the positions and epochs that the clients claim; -1 and 0 for no claim
    before : the sessions before the step. The headers are copies. The carries may be views of the slab, so
        they must be read before the slab is written.
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
        self.job_rows: list[int] = []
        self.resets_or_deletes = False
        self.has_options = False
        self.bulk_jobs: list[tuple[AdvanceMany, Ints]] = []
        self.observations: Numbers
        self.lengths: Ints
        self.rows: Ints
        self.at: Ints
        self.epochs: Epochs
        self.digests: Digests
        self.before: Rows

    def __len__(self) -> int:
        return len(self.jobs) + sum(len(job) for job, _ in self.bulk_jobs)

    def add(self, job: Advance, row: int) -> None:
        """Add a single job, whose session has this row."""
        self.jobs.append(job)
        self.job_rows.append(row)
        if job.reset or job.delete:
            self.resets_or_deletes = True
        if job.options is not None:
            self.has_options = True

    def fill(self) -> None:
        """Make the columns, once every job was added."""
        parts = [self._columns_of_jobs()] if self.jobs else []
        parts += [
            (job.observations, job.lengths, rows, job.claimed_positions, job.claimed_epochs)
            for job, rows in self.bulk_jobs
        ]
        columns = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        observations, self.lengths, self.rows, self.at, self.epochs = columns
        self.observations = self.slab.forecaster.numbers(observations)
        self.digests = digests(self.observations, self.lengths)
        if self.has_options:
            for i, job in enumerate(self.jobs):
                if job.digest is not None:
                    self.digests[i] = job.digest
        self.before = self.slab.read(self.rows) if self.resets_or_deletes else self.slab.view(self.rows)

    def _columns_of_jobs(self) -> tuple[Numbers, Ints, Ints, Ints, Epochs]:
        """Observations, lengths, rows, `at` and epochs of the single jobs."""
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
        """Whether a number is missing."""
        return self.has_options and any(job.options is not None and job.options.gaps for job in self.jobs)

    def spans(self) -> Iterator[tuple[AdvanceMany, slice]]:
        """Every bulk job, and where its chunks lie in the columns."""
        start = len(self.jobs)
        for job, _ in self.bulk_jobs:
            yield job, slice(start, start + len(job))
            start += len(job)

    def reset_sessions(self) -> None:
        """Reset the sessions in `before` whose chunks begin with a reset."""
        indexes = [i for i, job in enumerate(self.jobs) if job.reset]
        recent_answers.reset_sessions(self.before, self.slab.forecaster, indexes)

    def sessions(self) -> Sequence[str]:
        """The session of every column."""
        if len(self.bulk_jobs) == 1 and not self.jobs:
            return self.bulk_jobs[0][0].sessions
        names = [job.session for job in self.jobs]
        for job, _ in self.bulk_jobs:
            names += job.sessions
        return names

    def keep(self, kept: Bools, split: Split) -> dict[int, Advance]:
        """Leave out the chunks that are not marked.

        Parameters
        ----------
        kept : [batch]
        split : called with each bulk job that has to be divided, and its parts

        Returns
        -------
        The chunks that were left out, as jobs of one session each, by their former index.
        """
        jobs, job_rows = self.jobs, self.job_rows
        left_out = {i: jobs[i] for i in range(len(jobs)) if not kept[i]}
        bulk_jobs = []
        for (job, rows), (_, span) in zip(self.bulk_jobs, list(self.spans()), strict=True):
            if kept[span].all():
                bulk_jobs.append((job, rows))
                continue
            parts = JobParts(job)
            singles = {span.start + i: parts.single(i) for i in np.flatnonzero(~kept[span]).tolist()}
            indexes = np.flatnonzero(kept[span])
            rest = [parts.subset(indexes)] if len(indexes) else []
            bulk_jobs += [(part, rows[indexes]) for part in rest]
            split(job, [*rest, *singles.values()])
            left_out |= singles
        self.jobs = [jobs[i] for i in range(len(jobs)) if kept[i]]
        self.job_rows = [job_rows[i] for i in range(len(jobs)) if kept[i]]
        self.bulk_jobs = bulk_jobs
        self._keep_columns(kept)
        return left_out

    def _keep_columns(self, kept: Bools) -> None:
        self.observations = self.observations[np.repeat(kept, self.lengths)]
        self.lengths, self.rows, self.digests = self.lengths[kept], self.rows[kept], self.digests[kept]
        self.before = self.before.select(np.flatnonzero(kept))


def join_columns(columns: Sequence[Column]) -> Column:
    """The columns one after the other; a single column is returned as it is, not copied."""
    return columns[0] if len(columns) == 1 else np.concatenate(columns)  # type: ignore[return-value]
