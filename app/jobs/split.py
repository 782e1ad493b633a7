"""Splits a bulk request into parts that fit a batch, and puts their answers together.

Nearly every bulk job is its own only part. Otherwise its parts are jobs of their own, in the order of the
request for each session, and an `AnswerCollector` waits for all their answers.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from app.errors import CarryoverError
from app.jobs.answers import BulkAnswer, ChunkAnswer, ranges
from app.jobs.jobs import LONG_CHUNK, Advance, AdvanceMany, Reply, SeparateReplies
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from models.arrays import Ints, Numbers
from models.forecaster import longest_chunk
from models.nets.signature import Port


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
    return [parts.take(group) for group in _groups(job, max_sessions, max_observations)]


def set_apart(job: AdvanceMany, sessions: Container[str]) -> list[AdvanceMany]:
    """The chunks of these sessions as jobs of their own, and the others together."""
    alone = np.array([session in sessions for session in job.sessions])
    groups = [np.flatnonzero(~alone), *np.flatnonzero(alone)[:, None]]
    parts = JobParts(job)
    return [parts.subset(group) for group in groups if len(group)]


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

    def take(self, indexes: Sequence[int]) -> Advance | AdvanceMany:
        """The chunks at these indexes as a job of their own; a long chunk is alone among them."""
        first = indexes[0]
        alone = len(indexes) == 1 and isinstance(self._replies, AnswerCollector)
        if alone or self._job.lengths[first] > LONG_CHUNK:
            return self.single(first)
        return self.subset(np.array(indexes))

    def subset(self, indexes: Ints, sessions: SessionList | None = None) -> AdvanceMany:
        """The chunks at these indexes as a job of their own, none of them long.

        Parameters
        ----------
        sessions : of these chunks, where the list is known
        """
        job = self._job
        rows = ranges(self._starts[indexes], job.lengths[indexes])
        return AdvanceMany(
            job.sessions.pick(indexes) if sessions is None else sessions,
            job.observations[rows],
            job.lengths[indexes],
            None if job.at is None else job.at[indexes],
            None if job.epochs is None else job.epochs[indexes],
            job.model,
            self._replies.subset_reply(indexes),
            None if job.options is None else job.options.of_rows(rows),
            job.client,
            job.usage,
            min(job.requests, len(indexes)),
            job.create,
        )

    def single(self, i: int) -> Advance:
        """The chunk at this index as a job of its own, with its options. Ten thousand take 60 ms."""
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
            self._replies.subset_reply(np.array([i])),
            create=job.create,
            options=self._options(i),
            usage=job.usage,
            client=job.client,
        )

    def _options(self, i: int) -> ChunkOptions | None:
        """The options of one chunk. It has gaps only if its own numbers are missing."""
        options = self._job.options
        if options is None or not options.gaps or self._has_gaps[i]:
            start = int(self._starts[i])
            return options and options.of_rows(slice(start, start + int(self._job.lengths[i])))
        without_gaps = ChunkOptions(options.level, options.score, levels=options.levels)
        return without_gaps if options.wants_extra_outputs else None

    @cached_property
    def _has_gaps(self) -> list[bool]:
        """[n], whether numbers of the chunk are missing."""
        missing = np.isnan(self._job.observations).any(axis=1)
        has_gaps: list[bool] = np.logical_or.reduceat(missing, self._starts).tolist()
        return has_gaps


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
        self._model: str | None = None  # of every chunk so far; empty where they differ
        self._ports: tuple[Port, ...] = ()

    def subset_reply(self, indexes: Ints) -> Reply:
        """The reply of a job for the chunks at these indexes."""
        return lambda outcome: self._add(indexes, outcome)

    def fail(self, indexes: Sequence[int], error: CarryoverError) -> None:
        """Refuse the chunks at these indexes."""
        self._errors |= dict.fromkeys(indexes, error)
        self._count_answered(len(indexes))

    def _add(self, indexes: Ints, outcome: Any) -> None:
        if isinstance(outcome, ChunkAnswer):
            self._add_single(int(indexes[0]), outcome)
            return
        if not isinstance(outcome, BulkAnswer):
            self.fail(indexes.tolist(), outcome)
            return
        self._positions[indexes], self._epochs[indexes] = outcome.positions, outcome.epochs
        self._steps[indexes], self._outputs[indexes] = outcome.steps, outcome.outputs
        self._predictions.append((indexes, outcome.predictions))
        if len(outcome.errors) < len(indexes):
            self._add_model(outcome.model, outcome.ports)
        self._replayed += indexes[outcome.replayed].tolist()
        self._errors |= {int(indexes[i]): error for i, error in outcome.errors.items()}
        for name, by_index in outcome.extra_outputs.items():
            outputs = self._extra_outputs.setdefault(name, {})
            outputs.update((int(indexes[i]), numbers) for i, numbers in by_index.items())
        self._count_answered(len(indexes))

    def _add_single(self, i: int, outcome: ChunkAnswer) -> None:
        """Add the answer of one chunk. Without columns: they take three times as long."""
        self._positions[i], self._epochs[i] = outcome.position, outcome.epoch
        for name, numbers in outcome.answer.items():
            if name == "predictions":
                self._steps[i], self._outputs[i] = numbers.shape
                self._predictions.append((np.array([i]), numbers.ravel()))
            else:
                self._extra_outputs.setdefault(name, {})[i] = numbers
        if outcome.replayed:
            self._replayed.append(i)
        self._add_model(outcome.model, outcome.ports)
        self._count_answered(1)

    def _add_model(self, model: str, ports: tuple[Port, ...]) -> None:
        if self._model is None:
            self._model, self._ports = model, ports
        elif model != self._model or (ports is not self._ports and ports != self._ports):
            self._model, self._ports = "", ()

    def _count_answered(self, count: int) -> None:
        self._missing -= count
        if self._missing == 0:
            self._reply(self._answer())

    def _answer(self) -> BulkAnswer:
        counts = self._steps * self._outputs
        starts = np.cumsum(counts) - counts
        kinds = {numbers.dtype for _, numbers in self._predictions}
        predictions = np.empty(int(counts.sum()), np.result_type(np.float32, *kinds))
        if self._predictions:  # in one assignment: there may be a part for each of ten thousand chunks
            indexes = np.concatenate([indexes for indexes, _ in self._predictions])
            numbers = np.concatenate([numbers for _, numbers in self._predictions])
            predictions[ranges(starts[indexes], counts[indexes])] = numbers
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
            self._model or "",
            self._ports,
        )
