"""Chunks of several workers become few jobs, keep their order, and are answered where they came from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.engine.arrivals import Arrivals
from app.errors import Overloaded
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import AdvanceMany, Reply, SeparateReplies
from app.jobs.session_list import SessionList
from app.workers.handed_over import HandedOverChunks
from models.arrays import Ints


class Engine:
    """Takes jobs, or refuses them."""

    def __init__(self) -> None:
        self.arrivals = Arrivals()
        self.stopping = False
        self.jobs: list[AdvanceMany] = []
        self.refusal: Exception | None = None

    def wake(self) -> None: ...

    def submit_here(self, job: AdvanceMany) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.jobs.append(job)


class Replies(SeparateReplies):
    """Notes the answers: to all chunks, to some, or to one."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, Any]] = []

    def __call__(self, outcome: Any) -> None:
        self.got.append(("all", outcome))

    def subset_reply(self, indexes: Ints) -> Reply:
        return lambda outcome: self.got.append((indexes.tolist(), outcome))


class Usage:
    tenant = "t"
    released = 0

    def release(self, count: int) -> None:
        self.released += count


def handed_over(names: str, width: int = 1, **fields: Any) -> AdvanceMany:
    """A job of a chunk for each letter: as many observations as its place in the alphabet."""
    lengths = np.array([ord(name) - ord("a") + 1 for name in names])
    rows = np.concatenate([np.full((length, width), length, np.float32) for length in lengths])
    return AdvanceMany(SessionList(names), rows, lengths, reply=Replies(), **fields)


def answer(positions: list[int], **fields: Any) -> BulkAnswer:
    """An answer with two predictions of two numbers for each chunk: its position, and 0.5 more."""
    count = len(positions)
    numbers = np.repeat(np.array(positions, np.float32), 4).reshape(count, 2, 2)
    numbers[:, 1] += 0.5
    columns = np.array(positions), np.array(positions, np.uint64), np.full(count, 2)
    return BulkAnswer(*columns, 2, numbers.ravel(), model="sine", **fields)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def chunks(engine) -> HandedOverChunks:
    return HandedOverChunks(engine)


def submitted(engine: Engine, chunks: HandedOverChunks, *jobs: AdvanceMany) -> list[str]:
    """The names of each job that the engine gets of these."""
    for job in jobs:
        chunks.put(job)
    assert len(chunks) == len(jobs)
    engine.arrivals.submit()
    assert len(chunks) == 0
    return ["".join(job.sessions) for job in engine.jobs]


def test_jobs_of_several_workers_become_one(engine, chunks):
    at, epochs = np.array([4, -1]), np.array([7], np.uint64)
    jobs = handed_over("ab", at=at), handed_over("c", epochs=epochs), handed_over("d")
    assert submitted(engine, chunks, *jobs) == ["abcd"]
    (job,) = engine.jobs
    assert job.lengths.tolist() == [1, 2, 3, 4]
    assert job.observations.ravel().tolist() == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]
    assert job.claimed_positions.tolist() == [4, -1, -1, -1]
    assert job.claimed_epochs.tolist() == [0, 0, 7, 0]
    job.reply(answer([10, 20, 30, 40], extra_outputs={"scores": {1: np.ones(2), 3: np.zeros(2)}}))
    first, second, third = (job.reply.got for job in jobs)
    ((kind, whole),) = first
    assert (kind, whole.positions.tolist(), whole.model) == ("all", [10, 20], "sine")
    assert whole.predictions.tolist() == [10, 10, 10.5, 10.5, 20, 20, 20.5, 20.5]
    assert list(whole.extra_outputs["scores"]) == [1]
    assert second[0][1].predictions.tolist() == [30, 30, 30.5, 30.5]
    assert list(third[0][1].extra_outputs["scores"]) == [0]


def test_answers_to_some_chunks_go_where_they_came_from(engine, chunks):
    jobs = handed_over("ab"), handed_over("cde")
    submitted(engine, chunks, *jobs)
    (job,) = engine.jobs
    job.reply.subset_reply(np.array([1]))("b's")
    job.reply.subset_reply(np.array([0, 2, 4]))(answer([10, 30, 50]))
    job.reply.subset_reply(np.array([3]))("d's")
    first, second = (job.reply.got for job in jobs)
    assert first[0] == ([1], "b's")
    assert (first[1][0], first[1][1].positions.tolist()) == ([0], [10])
    assert (second[0][0], second[0][1].positions.tolist()) == ([0, 2], [30, 50])
    assert second[0][1].predictions.tolist() == [30, 30, 30.5, 30.5, 50, 50, 50.5, 50.5]
    assert second[1] == ([1], "d's")


def test_no_job_names_a_session_twice_and_its_chunks_keep_their_order(engine, chunks):
    jobs = handed_over("ab"), handed_over("c"), handed_over("ba"), handed_over("a")
    assert submitted(engine, chunks, *jobs) == ["abc", "ba", "a"]


@pytest.mark.parametrize(
    "other", [handed_over("b", 2), handed_over("b", model="sine"), handed_over("b", usage=Usage())]
)
def test_jobs_that_differ_stay_apart(engine, chunks, other):
    assert submitted(engine, chunks, handed_over("a"), other, handed_over("c")) == ["a", "b", "c"]


def test_a_refusal_answers_every_chunk_and_releases_them(engine, chunks):
    engine.refusal = Overloaded("too much waits")
    usage = Usage()
    jobs = handed_over("ab", usage=usage), handed_over("c", usage=usage)
    submitted(engine, chunks, *jobs)
    assert [job.reply.got for job in jobs] == [[("all", engine.refusal)]] * 2
    assert usage.released == 3


def test_a_stopping_engine_gets_a_job_at_once(engine, chunks):
    engine.stopping = True
    chunks.put(handed_over("a"))
    assert len(engine.jobs) == 1
    assert len(chunks) == 0
