"""Splits a bulk request into parts that fit a batch, and puts their answers together.

Nearly every bulk job is its own only part. Otherwise its parts are jobs of their own, in the order of the
request for each session, and an `AnswerCollector` waits for all their answers.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from app.errors import CarryoverError
from app.jobs.answers import BulkAnswer, ChunkAnswer
from app.jobs.jobs import Advance, AdvanceMany, Reply, SeparateReplies
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from models.arrays import Ints, Numbers
from models.forecaster import longest_chunk

LONG_CHUNK = 64  # observations; a longer chunk would hold up the others of its part, and goes alone


def split_job(job: AdvanceMany, max_sessions: int, max_observations: int) -> Sequence[Advance | AdvanceMany]:
    """The job itself if it fits one batch; otherwise its parts in order. A part names each session once.

    Parameters
    ----------
    max_sessions, max_observations : of one part, unless it is a single chunk
    """
    sessions = job.sessions
    fits = len(sessions) <= max_sessions and len(job.observations) <= max_observations
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
    return [parts.take(np.array(group)) for group in _groups(job, max_sessions, max_observations)]


def set_apart(job: AdvanceMany, sessions: Container[str]) -> list[Advance | AdvanceMany]:
    """The chunks of these sessions as jobs of their own, and the others together."""
    parts = JobParts(job)
    together = [i for i, session in enumerate(job.sessions) if session not in sessions]
    alone = [parts.single(i) for i, session in enumerate(job.sessions) if session in sessions]
    return [*([parts.subset(np.array(together))] if together else []), *alone]


def _groups(job: AdvanceMany, max_sessions: int, max_observations: int) -> list[list[int]]:
    """Indexes of each part. The second chunk of a session is in a later part than its first."""
    turns = repetitions(job.sessions)
    lengths = job.lengths.tolist()
    groups: list[list[int]] = []
    repetition, observations = -1, 0
    for i in np.argsort(turns, kind="stable").tolist():
        cost = max_observations if lengths[i] > LONG_CHUNK else lengths[i]  # a long chunk fills a part
        observations += cost
        if turns[i] != repetition or observations > max_observations or len(groups[-1]) >= max_sessions:
            groups.append([])
            repetition, observations = turns[i], cost
        groups[-1].append(i)
    return groups


def repetitions(sessions: Sequence[str]) -> list[int]:
    """How often each of these names has occurred before."""
    counts: dict[str, int] = {}
    repetitions = []
    for session in sessions:
        repetition = counts.get(session, 0)
        counts[session] = repetition + 1
        repetitions.append(repetition)
    return repetitions


class JobParts:
    """Divides a bulk job. Every chunk must be given to exactly one part."""

    def __init__(self, job: AdvanceMany) -> None:
        self._job = job
        self._starts = np.cumsum(job.lengths) - job.lengths
        self._replies: SeparateReplies | AnswerCollector = (
            job.reply if isinstance(job.reply, SeparateReplies) else AnswerCollector(len(job), job.reply)
        )

    def take(self, indexes: Ints) -> Advance | AdvanceMany:
        """The chunks at these indexes as a job of their own."""
        return self.single(int(indexes[0])) if len(indexes) == 1 else self.subset(indexes)

    def subset(self, indexes: Ints) -> AdvanceMany:
        """The chunks at these indexes as one bulk job, even if it is a single chunk."""
        job = self._job
        return AdvanceMany(
            SessionList([job.sessions[i] for i in indexes.tolist()]),
            job.observations[_ranges(self._starts[indexes], job.lengths[indexes])],
            job.lengths[indexes],
            None if job.at is None else job.at[indexes],
            None if job.epochs is None else job.epochs[indexes],
            job.model,
            self._replies.subset_reply(indexes),
            job.options,
            job.client,
            job.usage,
            min(job.requests, len(indexes)),
        )

    def single(self, i: int) -> Advance:
        """The chunk at this index as a job of one session."""
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
            self._replies.single_reply(i),
            options=self._options(start, int(job.lengths[i])),
            usage=job.usage,
            client=job.client,
        )

    def _options(self, start: int, length: int) -> ChunkOptions | None:
        """The options of one chunk. It has gaps only if its own numbers are missing."""
        options, observations = self._job.options, self._job.observations
        if options is None or not options.gaps:
            return options
        gaps = bool(np.isnan(observations[start : start + length]).any())
        return (
            ChunkOptions(options.level, options.score, gaps) if gaps or options.wants_extra_outputs else None
        )


class AnswerCollector:
    """Builds the answer of `count` chunks, and replies when the last of its parts is answered."""

    def __init__(self, count: int, reply: Reply) -> None:
        self._reply = reply
        self._missing = count
        self._positions = np.full(count, -1, np.int64)
        self._epochs = np.zeros(count, np.uint64)
        self._steps = np.zeros(count, np.int64)
        self._outputs = np.zeros(count, np.int64)
        self._replayed: list[int] = []
        self._errors: dict[int, CarryoverError] = {}
        self._extra_outputs: dict[str, dict[int, Numbers]] = {}
        self._predictions: list[tuple[Ints, Numbers]] = []  # indexes of chunks, and their predictions, flat

    def single_reply(self, i: int) -> Reply:
        """The reply of a job for the chunk at this index."""
        return lambda outcome: self._add_single(i, outcome)

    def subset_reply(self, indexes: Ints) -> Reply:
        """The reply of a job for the chunks at these indexes."""
        return lambda outcome: self._add_subset(indexes, outcome)

    def fail(self, indexes: Sequence[int], error: CarryoverError) -> None:
        """Refuse the chunks at these indexes."""
        self._errors |= dict.fromkeys(indexes, error)
        self._count_answered(len(indexes))

    def _add_single(self, i: int, outcome: Any) -> None:
        if not isinstance(outcome, ChunkAnswer):
            self.fail((i,), outcome)
            return
        predictions = outcome.answer["predictions"]
        for name, numbers in outcome.answer.items():
            if name != "predictions":
                self._extra_outputs.setdefault(name, {})[i] = numbers
        self._positions[i], self._epochs[i] = outcome.position, outcome.epoch
        self._steps[i], self._outputs[i] = predictions.shape
        self._predictions.append((np.array([i]), predictions.ravel()))
        if outcome.replayed:
            self._replayed.append(i)
        self._count_answered(1)

    def _add_subset(self, indexes: Ints, outcome: Any) -> None:
        if not isinstance(outcome, BulkAnswer):
            self.fail(indexes.tolist(), outcome)
            return
        self._positions[indexes], self._epochs[indexes] = outcome.positions, outcome.epochs
        self._steps[indexes], self._outputs[indexes] = outcome.steps, outcome.outputs
        self._predictions.append((indexes, outcome.predictions))
        self._replayed += indexes[outcome.replayed].tolist()
        self._errors |= {int(indexes[i]): error for i, error in outcome.errors.items()}
        for name, by_index in outcome.extra_outputs.items():
            outputs = self._extra_outputs.setdefault(name, {})
            outputs.update((int(indexes[i]), numbers) for i, numbers in by_index.items())
        self._count_answered(len(indexes))

    def _count_answered(self, count: int) -> None:
        self._missing -= count
        if self._missing == 0:
            self._reply(self._answer())

    def _answer(self) -> BulkAnswer:
        counts = self._steps * self._outputs
        starts = np.cumsum(counts) - counts
        kinds = [numbers.dtype for _, numbers in self._predictions]
        predictions = np.empty(int(counts.sum()), np.result_type(np.float32, *kinds))
        for indexes, numbers in self._predictions:
            predictions[_ranges(starts[indexes], counts[indexes])] = numbers
        widths = np.unique(self._outputs[self._steps > 0])
        outputs = int(widths[0]) if len(widths) == 1 else self._outputs
        return BulkAnswer(
            self._positions,
            self._epochs,
            self._steps,
            outputs,
            predictions,
            sorted(self._replayed),
            dict(sorted(self._errors.items())),
            self._extra_outputs,
        )


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """The indexes start, start + 1, ... of every range, one range after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    indexes: Ints = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return indexes
