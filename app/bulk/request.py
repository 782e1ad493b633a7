"""A bulk request, checked: jobs for the engine, and the chunks that were refused before it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app import wire
from app.answers import AdvancedMany
from app.errors import CarryoverError, TooLarge, Unprocessable
from app.jobs import AdvanceMany, Reply, Submits
from app.parts import Gathering, Parts
from app.rows import Epochs, Floats, Ints

ID_BYTES = bytes(ord(letter) for letter in map(chr, range(128)) if wire.SESSION_ID.fullmatch(letter))
LONGEST_ID = 128
NEWLINE = ord("\n")


@dataclass(frozen=True, slots=True)
class BulkLimits:
    """What one request may ask for."""

    sessions: int
    chunk: wire.Limits


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
        if len(self.jobs) == 1 and not self.errors:
            _submit(engine, self.jobs[0][1], reply)
            return
        gathering = Gathering(self.count, reply)
        for i, error in self.errors.items():
            gathering.fail((i,), error)
        for which, job in self.jobs:
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
    """By index, what is wrong with single chunks: told by array operations where nothing is."""
    suspects = np.zeros(len(columns), bool)
    if not plain_ids(columns.sessions):
        suspects[[i for i, name in enumerate(columns.sessions) if not _is_id(name)]] = True
    if columns.at is not None:
        suspects |= columns.at < -1
    lengths, most = columns.lengths, limits.chunk.observations
    suspects |= (lengths < 1) | (lengths > most)
    gaps = columns.extras is not None and columns.extras.gaps
    finite = ~np.isinf(columns.observations) if gaps else np.isfinite(columns.observations)
    if not finite.all():
        owners = np.repeat(np.arange(len(columns)), lengths)
        suspects[owners[~finite.all(axis=1)]] = True
    if not suspects.any():
        return {}
    starts = np.cumsum(lengths) - lengths
    return {
        i: _why(columns, i, columns.observations[starts[i] : starts[i] + lengths[i]], limits)
        for i in np.flatnonzero(suspects).tolist()
    }


def plain_ids(sessions: Sequence[str]) -> bool:
    """Whether all of these are session ids; a few passes over their bytes, however many they are."""
    joined = "\n".join(sessions)
    if not joined.isascii() or joined.count("\n") != len(sessions) - 1:
        return False
    blob = joined.encode()
    if blob.translate(None, ID_BYTES) != b"\n" * (len(sessions) - 1):
        return False
    ends = np.flatnonzero(np.frombuffer(blob + b"\n", np.uint8) == NEWLINE)
    gaps = ends[1:] - ends[:-1]
    first = int(ends[0]) + 1
    return 1 < first <= LONGEST_ID + 1 and (
        not len(gaps) or bool(gaps.min() > 1 and gaps.max() <= LONGEST_ID + 1)
    )


def _is_id(name: str) -> bool:
    return wire.SESSION_ID.fullmatch(name) is not None


def _why(columns: AdvanceMany, i: int, observations: Floats, limits: BulkLimits) -> CarryoverError:
    try:
        wire.session_id(columns.sessions[i])
        if columns.at is not None and columns.at[i] < -1:
            wire.checked_at(int(columns.at[i]))
        gaps = columns.extras is not None and columns.extras.gaps
        wire.check_finite(observations, limits.chunk, gaps=gaps)
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
