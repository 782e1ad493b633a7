"""A bulk request, checked: jobs for the engine, and the errors of the chunks that are left out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from app.codec.bulk.session_ids import are_session_ids
from app.codec.chunks import check_observations, validate_position
from app.codec.limits import SESSION_ID, Limits, validate_session_id
from app.errors import CarryoverError, TooLarge, Unprocessable
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import AdvanceMany, Client, JobReceiver, Reply
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from app.jobs.split import AnswerCollector, JobParts
from models.arrays import Epochs, Ints, Numbers

PART_OBSERVATIONS = 16_384  # of a request that are queued at once, if it is not on the hot route


@dataclass(frozen=True, slots=True)
class BulkLimits:
    """The most that a bulk request may ask for.

    sessions : chunks in it
    chunk : of each chunk
    """

    sessions: int
    chunk: Limits


@dataclass(slots=True)
class BulkRequest:
    """The jobs of a bulk request, and the errors of its other chunks.

    count : chunks in it
    jobs : indexes of chunks, ascending, and the job that advances them; more than one job where chunks
        differ in width
    errors : by index, of the chunks that are in no job
    depths : how deep the numbers were nested in JSON, which is how deep the predictions are nested: 1 a bare
        number, 2 an observation, 3 a chunk; a list where the chunks differ
    answer_type : content type of the answer
    doubles : whether the binary form of the answer has float64 numbers
    named : whether the inputs have names, and so the outputs have in the Arrow form of the answer
    """

    count: int
    jobs: list[tuple[Ints, AdvanceMany]]
    errors: dict[int, CarryoverError] = field(default_factory=dict)
    depths: int | Sequence[int] = 3
    answer_type: str = ""
    doubles: bool = False
    named: bool = False

    def submit(self, engine: JobReceiver, reply: Reply, client: Client | None = None) -> None:
        """Queue the jobs; `reply` is called once, with a `BulkAnswer` or the error of the whole request.

        Parameters
        ----------
        client : waits for the answer; None where that is not known
        """
        jobs = self._take_jobs(client)
        if len(jobs) == 1 and not self.errors:
            _submit(engine, jobs[0][1], reply)
            return
        collector = AnswerCollector(self.count, reply)
        for i, error in self.errors.items():
            collector.fail((i,), error)
        for indexes, job in jobs:
            _submit(engine, job, collector.subset_reply(indexes))

    async def ask(self, engine: JobReceiver, client: Client | None = None) -> BulkAnswer:
        """Queue the jobs and wait for the answer.

        Parameters
        ----------
        client : waits for the answer; None where that is not known

        Raises
        ------
        CarryoverError : the error of the whole request
        """
        if sum(len(job.observations) for _, job in self.jobs) > PART_OBSERVATIONS:
            return await self._ask_in_parts(engine, client)
        outcome = await _outcome(partial(self.submit, engine, client=client))
        if isinstance(outcome, CarryoverError):
            raise outcome
        answer: BulkAnswer = outcome
        return answer

    def _take_jobs(self, client: Client | None) -> list[tuple[Ints, AdvanceMany]]:
        """Hand out the jobs, for this client, and let go of them.

        A job refers to its reply, which often refers to the request: a cycle would keep megabytes until the
        garbage collector runs.
        """
        jobs, self.jobs = self.jobs, []
        for _, job in jobs:
            job.client = client
        return jobs

    async def _ask_in_parts(self, engine: JobReceiver, client: Client | None) -> BulkAnswer:
        """Queue a part when the one before is answered: the chunks of other clients go in between.

        If the engine refuses the first part it refuses the whole request, and later parts alone.
        """
        answers: list[BulkAnswer] = []
        collector = AnswerCollector(self.count, answers.append)
        for i, error in self.errors.items():
            collector.fail((i,), error)
        first = True
        for indexes, job in self._take_jobs(client):
            parts = JobParts(job)
            for group in _groups(job.lengths):
                part = parts.subset(group)
                outcome = await _outcome(partial(_submit, engine, part))
                if first and isinstance(outcome, CarryoverError):
                    raise outcome
                first = False
                collector.subset_reply(indexes[group])(outcome)
        return answers[0]


async def _outcome(submit: Callable[[Reply], None]) -> Any:
    """The answer, or the error, that the reply is called with."""
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    submit(lambda outcome: None if answered.done() else answered.set_result(outcome))
    return await answered


def _groups(lengths: Ints) -> list[Ints]:
    """Indexes of consecutive chunks, of up to `PART_OBSERVATIONS` together and at least one."""
    groups: list[list[int]] = [[]]
    observations = 0
    for i, length in enumerate(lengths.tolist()):
        if groups[-1] and observations + length > PART_OBSERVATIONS:
            groups.append([])
            observations = 0
        groups[-1].append(i)
        observations += length
    return [np.array(group) for group in groups]


def last_of(slices: Generator[None, None, BulkRequest]) -> BulkRequest:
    """The request that is decoded in slices, without pauses."""
    while True:
        try:
            next(slices)
        except StopIteration as stop:
            request: BulkRequest = stop.value
            return request


def build_request(columns: AdvanceMany, limits: BulkLimits, depths: int | Sequence[int] = 3) -> BulkRequest:
    """The request of these columns. An invalid chunk is left out, with its error."""
    count = len(columns)
    check_session_count(count, limits)
    errors = find_errors(columns, limits)
    indexes = np.arange(count)
    if not errors:
        return BulkRequest(count, [(indexes, columns)], {}, depths)
    valid = np.delete(indexes, list(errors))
    jobs = [(valid, JobParts(columns).subset(valid))] if len(valid) else []
    return BulkRequest(count, jobs, errors, depths)


def build_jobs(
    sessions: Sequence[str],
    chunks: Mapping[int, Numbers | dict[str, Numbers]],
    at: Sequence[int],
    epochs: Sequence[int],
    model: str | None,
) -> list[tuple[Ints, AdvanceMany]]:
    """Jobs of one width each, or of one shape of each input, with the indexes of their chunks.

    Parameters
    ----------
    sessions : [n] names
    chunks : by index, [steps, inputs], or [steps, ...] by input; indexes that are missing are left out
    at, epochs : [n] preconditions; -1 and 0 for none
    """
    by_shape: dict[tuple[Any, ...], list[int]] = {}
    for i, chunk in chunks.items():
        by_shape.setdefault(_shape(chunk), []).append(i)
    jobs = []
    for _, indexes in sorted(by_shape.items()):
        if isinstance(sessions, SessionList):
            names = sessions if len(indexes) == len(sessions) else sessions.pick(np.array(indexes))
        else:
            names = SessionList([sessions[i] for i in indexes])
        observations, lengths, options = _join([chunks[i] for i in indexes])
        preconditions = precondition_columns([at[i] for i in indexes], [epochs[i] for i in indexes])
        job = AdvanceMany(names, observations, lengths, *preconditions, model, options=options)
        jobs.append((np.array(indexes), job))
    return jobs


def _shape(chunk: Numbers | dict[str, Numbers]) -> tuple[Any, ...]:
    """What chunks of one job have in common."""
    if isinstance(chunk, dict):
        return tuple((name, *numbers.shape[1:]) for name, numbers in chunk.items())
    return chunk.shape[1:]


def _join(chunks: Sequence[Any]) -> tuple[Numbers, Ints, ChunkOptions | None]:
    """The observations and the lengths of chunks of one shape, and the options that hold named inputs."""
    if not isinstance(chunks[0], dict):
        return np.concatenate(chunks), np.array([len(chunk) for chunk in chunks]), None
    lengths = np.array([len(next(iter(chunk.values()))) for chunk in chunks])
    inputs = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return np.empty((int(lengths.sum()), 0), np.float32), lengths, ChunkOptions(inputs=inputs)


def check_session_count(count: int, limits: BulkLimits) -> None:
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


def check_column_length(name: str, length: int, count: int) -> None:
    """Refuse a column that does not have one entry for each session.

    Raises
    ------
    Unprocessable
    """
    if length != count:
        raise Unprocessable(f"{name} has {length} entries for {count} sessions", field=name)


def find_errors(columns: AdvanceMany, limits: BulkLimits) -> dict[int, CarryoverError]:
    """The errors of single chunks, by index."""
    valid_names = columns.sessions.spans is not None or are_session_ids(columns.sessions.names)
    if valid_names and _are_valid(columns, limits.chunk.observations):
        return {}
    lengths, observations = columns.lengths, columns.observations
    suspects = np.array([SESSION_ID.fullmatch(name) is None for name in columns.sessions])
    suspects |= (lengths < 1) | (lengths > limits.chunk.observations)
    if columns.at is not None:
        suspects |= columns.at < -1
    finite = ~np.isinf(observations) if _has_gaps(columns) else np.isfinite(observations)
    owners = np.repeat(np.arange(len(columns)), lengths)
    suspects[owners[~finite.all(axis=1)]] = True
    starts = np.cumsum(lengths) - lengths
    return {
        i: _chunk_error(columns, i, observations[starts[i] : starts[i] + lengths[i]], limits)
        for i in np.flatnonzero(suspects).tolist()
    }


def _are_valid(columns: AdvanceMany, most: int) -> bool:
    """Whether all lengths, positions and numbers are valid."""
    lengths, at, observations = columns.lengths, columns.at, columns.observations
    if lengths.min() < 1 or lengths.max() > most or (at is not None and at.min() < -1):
        return False
    wrong = np.isinf(observations).any() if _has_gaps(columns) else not np.isfinite(observations).all()
    return not wrong


def _has_gaps(columns: AdvanceMany) -> bool:
    return columns.options is not None and columns.options.gaps


def _chunk_error(columns: AdvanceMany, i: int, observations: Numbers, limits: BulkLimits) -> CarryoverError:
    try:
        validate_session_id(columns.sessions[i])
        if columns.at is not None and columns.at[i] < -1:
            validate_position(int(columns.at[i]))
        check_observations(observations, limits.chunk, gaps=_has_gaps(columns))
    except CarryoverError as error:
        return error
    return Unprocessable("the chunk cannot be applied")


def _submit(engine: JobReceiver, job: AdvanceMany, reply: Reply) -> None:
    job.reply = reply
    try:
        engine.submit(job)
    except CarryoverError as error:
        reply(error)


def precondition_columns(
    at: Sequence[Any] | None, epochs: Sequence[int] | None
) -> tuple[Ints | None, Epochs | None]:
    """The columns `at` and `epochs` of a job; None in `at` is no precondition."""
    positions = (
        None if at is None else np.array([-1 if position is None else position for position in at], np.int64)
    )
    return positions, None if epochs is None else np.array(epochs, np.uint64)
