"""A request of many sessions: cut into parts that a wave can take, and one answer put together from theirs.

Nearly every such job is one part, itself. Otherwise its parts are jobs of their own, in the order of the
request for each session, and a `AnswerCollector` waits for all of their answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.errors import CarryoverError
from app.jobs.answers import BulkAnswer, ChunkAnswer
from app.jobs.jobs import Advance, AdvanceMany, Reply
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from models.arrays import Floats, Ints
from models.forecaster import longest_chunk

LONG_CHUNK = 64  # observations; a longer one among many would hold them up, and goes alone


def split_job(
    job: AdvanceMany, most_sessions: int, most_observations: int
) -> Sequence[Advance | AdvanceMany]:
    """The job itself when one wave can take it, or parts of it in order, each of sessions that differ.

    Parameters
    ----------
    most_sessions, most_observations : of one part, unless it is a single chunk
    """
    sessions = job.sessions
    fits = len(sessions) <= most_sessions and len(job.observations) <= most_observations
    if job.options is not None:
        parts = JobParts(job)
        return [parts.single(i) for i in range(len(sessions))]
    if (
        fits
        and len(sessions.unique) == len(sessions)
        and longest_chunk(job.lengths, job.observations) <= LONG_CHUNK
    ):
        return (job,)
    parts = JobParts(job)
    return [parts.take(np.array(group)) for group in _groups(job, most_sessions, most_observations)]


def _groups(job: AdvanceMany, most_sessions: int, most_observations: int) -> list[list[int]]:
    """Indexes of each part. The second chunk of a session is in a later part than its first."""
    turns = _turns(job.sessions)
    lengths = job.lengths.tolist()
    groups: list[list[int]] = []
    turn, observations = -1, 0
    for i in np.argsort(turns, kind="stable").tolist():
        long = lengths[i] > LONG_CHUNK
        observations += most_observations if long else lengths[i]
        if turns[i] != turn or observations > most_observations or len(groups[-1]) >= most_sessions:
            groups.append([])
            turn, observations = turns[i], most_observations if long else lengths[i]
        groups[-1].append(i)
    return groups


def _turns(sessions: Sequence[str]) -> list[int]:
    """How often each of these sessions was named before."""
    seen: dict[str, int] = {}
    turns = []
    for session in sessions:
        turn = seen.get(session, 0)
        seen[session] = turn + 1
        turns.append(turn)
    return turns


class JobParts:
    """A job taken to parts: every chunk of it goes into exactly one."""

    def __init__(self, job: AdvanceMany) -> None:
        self._job = job
        self._starts = np.cumsum(job.lengths) - job.lengths
        self._gathering = AnswerCollector(len(job), job.reply)

    def take(self, which: Ints) -> Advance | AdvanceMany:
        """The chunks at these indexes as a job of their own."""
        return self.single(int(which[0])) if len(which) == 1 else self.subset(which)

    def subset(self, which: Ints) -> AdvanceMany:
        """The chunks at these indexes as one job, which may hold a single one."""
        job = self._job
        return AdvanceMany(
            SessionList([job.sessions[i] for i in which.tolist()]),
            job.observations[_spread(self._starts[which], job.lengths[which])],
            job.lengths[which],
            None if job.at is None else job.at[which],
            None if job.epochs is None else job.epochs[which],
            job.model,
            self._gathering.subset_reply(which),
            job.options,
        )

    def single(self, i: int) -> Advance:
        """The chunk at this index as a job of its own."""
        job, start = self._job, int(self._starts[i])
        at = -1 if job.at is None else int(job.at[i])
        epoch = 0 if job.epochs is None else int(job.epochs[i])
        return Advance(
            job.sessions[i],
            job.observations[start : start + int(job.lengths[i])],
            None if at == -1 else at,
            epoch or None,
            0,
            job.model,
            self._gathering.single_reply(i),
            options=self._extras(start, int(job.lengths[i])),
        )

    def _extras(self, start: int, length: int) -> ChunkOptions | None:
        """Of one chunk: a gap in another is none of it."""
        options, observations = self._job.options, self._job.observations
        if options is None or not options.gaps:
            return options
        gaps = bool(np.isnan(observations[start : start + length]).any())
        return (
            ChunkOptions(options.level, options.score, gaps) if gaps or options.wants_extra_outputs else None
        )


class AnswerCollector:
    """One answer of `count` chunks, given when the last of its parts is answered."""

    def __init__(self, count: int, reply: Reply) -> None:
        self._reply = reply
        self._missing = count
        self._positions = np.full(count, -1, np.int64)
        self._epochs = np.zeros(count, np.uint64)
        self._steps = np.zeros(count, np.int64)
        self._outputs = np.zeros(count, np.int64)
        self._replayed: list[int] = []
        self._errors: dict[int, CarryoverError] = {}
        self._findings: dict[str, dict[int, Floats]] = {}
        self._pieces: list[tuple[Ints, Floats]] = []  # indexes, and the numbers of their predictions

    def single_reply(self, i: int) -> Reply:
        """The reply of a job for the chunk at this index."""
        return lambda outcome: self._one(i, outcome)

    def subset_reply(self, which: Ints) -> Reply:
        """The reply of a job for the chunks at these indexes."""
        return lambda outcome: self._many(which, outcome)

    def fail(self, which: Sequence[int], error: CarryoverError) -> None:
        """Refuse the chunks at these indexes."""
        self._errors |= dict.fromkeys(which, error)
        self._arrived(len(which))

    def _one(self, i: int, outcome: Any) -> None:
        if not isinstance(outcome, ChunkAnswer):
            self.fail((i,), outcome)
            return
        predictions = outcome.answer["predictions"]
        for name, numbers in outcome.answer.items():
            if name != "predictions":
                self._findings.setdefault(name, {})[i] = numbers
        self._positions[i], self._epochs[i] = outcome.position, outcome.epoch
        self._steps[i], self._outputs[i] = predictions.shape
        self._pieces.append((np.array([i]), predictions.ravel()))
        if outcome.replayed:
            self._replayed.append(i)
        self._arrived(1)

    def _many(self, which: Ints, outcome: Any) -> None:
        if not isinstance(outcome, BulkAnswer):
            self.fail(which.tolist(), outcome)
            return
        self._positions[which], self._epochs[which] = outcome.positions, outcome.epochs
        self._steps[which], self._outputs[which] = outcome.steps, outcome.outputs
        self._pieces.append((which, outcome.numbers))
        self._replayed += which[outcome.replayed].tolist()
        self._errors |= {int(which[i]): error for i, error in outcome.errors.items()}
        for name, columns in outcome.extra_outputs.items():
            self._findings.setdefault(name, {}).update((int(which[i]), one) for i, one in columns.items())
        self._arrived(len(which))

    def _arrived(self, count: int) -> None:
        self._missing -= count
        if self._missing == 0:
            self._reply(self._answer())

    def _answer(self) -> BulkAnswer:
        counts = self._steps * self._outputs
        starts = np.cumsum(counts) - counts
        numbers = np.empty(int(counts.sum()), np.float32)
        for which, some in self._pieces:
            numbers[_spread(starts[which], counts[which])] = some
        widths = np.unique(self._outputs[self._steps > 0])
        outputs = int(widths[0]) if len(widths) == 1 else self._outputs
        return BulkAnswer(
            self._positions,
            self._epochs,
            self._steps,
            outputs,
            numbers,
            sorted(self._replayed),
            dict(sorted(self._errors.items())),
            self._findings,
        )


def _spread(starts: Ints, counts: Ints) -> Ints:
    """The places start, start + 1, ... of every run, one run after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    places: Ints = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return places
