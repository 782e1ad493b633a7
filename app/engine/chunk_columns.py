"""The chunks of a batch for one slab's sessions, in columns; those of each job in one piece.

All work is done on the columns. A chunk is handled alone only when it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from app.jobs.jobs import AdvanceMany
from app.jobs.split import JobParts
from app.session.digest import digests
from app.session.rows import Rows
from app.session.slab import Slab
from models.arrays import Bools, Digests, Epochs, Ints, Numbers

Column = TypeVar("Column", bound=np.ndarray[Any, Any])
Split = Callable[[AdvanceMany, Sequence[AdvanceMany]], None]


class ChunkColumns:
    """Chunks, each of another session. `fill` makes the columns once every job was added.

    jobs : each with the rows of its sessions
    observations : [total, inputs], one chunk after the other
    lengths, digests, rows : [batch]
    at, epochs : [batch], the positions and epochs that the clients claim; -1 and 0 for no claim
    before : the sessions before the step. The headers are copies. The carries may be views of the slab, so
        they must be read before the slab is written.
    """

    __slots__ = ("at", "before", "digests", "epochs", "jobs", "lengths", "observations", "rows", "slab")

    def __init__(self, slab: Slab) -> None:
        self.slab = slab
        self.jobs: list[tuple[AdvanceMany, Ints]] = []
        self.observations: Numbers
        self.lengths: Ints
        self.rows: Ints
        self.at: Ints
        self.epochs: Epochs
        self.digests: Digests
        self.before: Rows

    def __len__(self) -> int:
        return sum(len(job) for job, _ in self.jobs)

    def fill(self) -> None:
        """Make the columns, once every job was added."""
        parts = [
            (job.observations, job.lengths, rows, job.claimed_positions, job.claimed_epochs)
            for job, rows in self.jobs
        ]
        observations, self.lengths, self.rows, self.at, self.epochs = map(
            join_columns, zip(*parts, strict=True)
        )
        self.observations = self.slab.forecaster.numbers(observations)
        self.digests = digests(self.observations, self.lengths)
        self.before = self.slab.view(self.rows)

    def spans(self) -> Iterator[tuple[AdvanceMany, slice]]:
        """Every job, and where its chunks lie in the columns."""
        start = 0
        for job, _ in self.jobs:
            yield job, slice(start, start + len(job))
            start += len(job)

    def sessions(self) -> Sequence[str]:
        """The session of every column."""
        if len(self.jobs) == 1:
            return self.jobs[0][0].sessions.names
        return [session for job, _ in self.jobs for session in job.sessions.names]

    def keep(self, kept: Bools, split: Split) -> dict[int, AdvanceMany]:
        """Leave out the chunks that are not marked.

        Parameters
        ----------
        kept : [batch]
        split : called with each job that has to be divided, and its parts

        Returns
        -------
        The chunks that were left out, as jobs of one chunk each, by their former index.
        """
        left_out: dict[int, AdvanceMany] = {}
        jobs: list[tuple[AdvanceMany, Ints]] = []
        for (job, rows), (_, span) in zip(self.jobs, list(self.spans()), strict=True):
            if kept[span].all():
                jobs.append((job, rows))
                continue
            parts = JobParts(job)
            alone = {
                span.start + i: parts.subset(np.array([i])) for i in np.flatnonzero(~kept[span]).tolist()
            }
            indexes = np.flatnonzero(kept[span])
            rest = [parts.subset(indexes)] if len(indexes) else []
            jobs += [(part, rows[indexes]) for part in rest]
            split(job, [*rest, *alone.values()])
            left_out |= alone
        self.jobs = jobs
        self.observations = self.observations[np.repeat(kept, self.lengths)]
        self.lengths, self.rows, self.digests = self.lengths[kept], self.rows[kept], self.digests[kept]
        self.before = self.before.select(np.flatnonzero(kept))
        return left_out


def join_columns(columns: Sequence[Column]) -> Column:
    """The columns one after the other; a single column is returned as it is, not copied."""
    return columns[0] if len(columns) == 1 else np.concatenate(columns)  # type: ignore[return-value]
