"""A bulk request, checked: jobs for the engine, and the chunks that were refused before it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.codec import chunks
from app.codec.bulk.session_lists import are_ids
from app.errors import CarryoverError, TooLarge, Unprocessable
from app.jobs.answers import AdvancedMany
from app.jobs.jobs import AdvanceMany, Reply, Submits
from app.jobs.split import Gathering, Parts
from app.session.rows import Epochs, Floats, Ints
from models.compiled import BOOL, INT, column, compiled

NOWHERE = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class BulkLimits:
    """What one request may ask for."""

    sessions: int
    chunk: chunks.Limits


@dataclass(slots=True)
class Request:
    """What a bulk request asks for.

    count : chunks in it
    jobs : the indexes of the chunks, ascending, and the job that advances them; one job unless some were
        refused or differ in width
    errors : by index, what was refused
    depths : how deep the numbers lay in JSON, which is how deep they are answered: 1 a bare number each,
        2 an observation each, 3 a chunk each; a list where it differs from one to the next
    answered : the content type of the answer
    """

    count: int
    jobs: list[tuple[Ints, AdvanceMany]]
    errors: dict[int, CarryoverError] = field(default_factory=dict)
    depths: int | Sequence[int] = 3
    answered: str = ""

    def submit(self, engine: Submits, reply: Reply) -> None:
        """Queue it; `reply` is called once, with an `AdvancedMany` or with what refuses the whole."""
        # The jobs are the engine's from here on. They know whom to answer, who often has the request: a
        # circle, and megabytes that would wait for the collector.
        jobs, self.jobs = self.jobs, []
        if len(jobs) == 1 and not self.errors:
            _submit(engine, jobs[0][1], reply)
            return
        gathering = Gathering(self.count, reply)
        for i, error in self.errors.items():
            gathering.fail((i,), error)
        for which, job in jobs:
            _submit(engine, job, gathering.many(which))

    async def ask(self, engine: Submits) -> AdvancedMany:
        """Queue it and wait for the answer.

        Raises
        ------
        CarryoverError : what refuses the whole
        """
        answered: asyncio.Future[AdvancedMany | CarryoverError] = asyncio.get_running_loop().create_future()
        self.submit(engine, lambda outcome: None if answered.done() else answered.set_result(outcome))
        outcome = await answered
        if isinstance(outcome, CarryoverError):
            raise outcome
        return outcome


def request(columns: AdvanceMany, limits: BulkLimits, depths: int | Sequence[int] = 3) -> Request:
    """The request of these columns. A chunk that is wrong in itself is left out, with its error."""
    count = len(columns)
    check_count(count, limits)
    errors = errors_in(columns, limits)
    which = np.arange(count)
    if not errors:
        return Request(count, [(which, columns)], {}, depths)
    fine = np.delete(which, list(errors))
    jobs = [(fine, Parts(columns).several(fine))] if len(fine) else []
    return Request(count, jobs, errors, depths)


def check_count(count: int, limits: BulkLimits) -> None:
    """Refuse a request of no sessions, or of too many.

    Raises
    ------
    Unprocessable, TooLarge
    """
    if not count:
        raise Unprocessable("the request names no sessions", field="sessions")
    if count > limits.sessions:
        raise TooLarge(
            f"a request has at most {limits.sessions} sessions, this one has {count}", limit=limits.sessions
        )


def check_column(name: str, length: int, count: int) -> None:
    """Refuse a column that has not one entry for each session.

    Raises
    ------
    Unprocessable
    """
    if length != count:
        raise Unprocessable(f"{name} has {length} entries for {count} sessions", field=name)


def errors_in(columns: AdvanceMany, limits: BulkLimits) -> dict[int, CarryoverError]:
    """By index, what is wrong with single chunks: told by two passes where nothing is."""
    lengths, most = columns.lengths, limits.chunk.observations
    at = NOWHERE if columns.at is None else columns.at
    gaps = columns.extras is not None and columns.extras.gaps
    named = columns.sessions.checked or are_ids(columns.sessions)
    if named and _sound(columns.observations, lengths, at, most, gaps):
        return {}
    suspects = np.array([not _is_id(name) for name in columns.sessions])
    suspects |= (lengths < 1) | (lengths > most)
    if columns.at is not None:
        suspects |= columns.at < -1
    finite = ~np.isinf(columns.observations) if gaps else np.isfinite(columns.observations)
    owners = np.repeat(np.arange(len(columns)), lengths)
    suspects[owners[~finite.all(axis=1)]] = True
    starts = np.cumsum(lengths) - lengths
    return {
        i: _why(columns, i, columns.observations[starts[i] : starts[i] + lengths[i]], limits)
        for i in np.flatnonzero(suspects).tolist()
    }


@compiled(column("float32", 2), column("int64"), column("int64"), INT, BOOL)
def _sound(observations: Floats, lengths: Ints, at: Ints, most: int, gaps: bool) -> bool:
    """Whether nothing is wrong with any chunk but, perhaps, the name of its session."""
    sound = True
    for length in lengths:
        sound &= 1 <= length <= most
    for position in at:
        sound &= position >= -1
    for row in observations:
        for number in row:
            sound &= np.isfinite(number) or (gaps and np.isnan(number))
    return sound


def _is_id(name: str) -> bool:
    return chunks.SESSION_ID.fullmatch(name) is not None


def _why(columns: AdvanceMany, i: int, observations: Floats, limits: BulkLimits) -> CarryoverError:
    try:
        chunks.session_id(columns.sessions[i])
        if columns.at is not None and columns.at[i] < -1:
            chunks.checked_at(int(columns.at[i]))
        gaps = columns.extras is not None and columns.extras.gaps
        chunks.check_finite(observations, limits.chunk, gaps=gaps)
    except CarryoverError as error:
        return error
    return Unprocessable("the chunk cannot be applied")


def _submit(engine: Submits, job: AdvanceMany, reply: Reply) -> None:
    job.reply = reply
    try:
        engine.submit(job)
    except CarryoverError as error:
        reply(error)


def claims(at: Sequence[Any] | None, epochs: Sequence[int] | None) -> tuple[Ints | None, Epochs | None]:
    """The columns `at` and `epochs` of what clients claim; None for an entry is no claim."""
    told = None if at is None else np.array([-1 if one is None else one for one in at], np.int64)
    return told, None if epochs is None else np.array(epochs, np.uint64)
