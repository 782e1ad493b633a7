"""What cannot be sent to another worker is answered, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from app import server
from app.errors import StepFailed, UnknownSession
from app.jobs.answers import BulkAnswer, ChunkAnswer, SessionView
from app.jobs.jobs import Advance, AdvanceMany, Inspect, SeparateReplies
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from app.workers import frames
from app.workers.values import PartAnswer
from tests.helpers.two_workers import TwoWorkers, owned, two_workers
from tests.helpers.ways import HotRoute

pytestmark = pytest.mark.anyio

(HERE,), (THERE, OTHER) = owned(0, 1), owned(1, 2)
ROWS = np.full((2, 1), 0.5, np.float32)
HUGE = 10**30  # beyond what MessagePack holds


@pytest.fixture
def start(tmp_path, zoo_folder, monkeypatch):
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)
    return lambda: two_workers(HotRoute, tmp_path, zoo_folder)


def left_behind(both: TwoWorkers) -> Any:
    """What the first worker counts of jobs and questions that the other has not answered."""
    (peer,) = both.workers(0)._peers.values()
    return peer._jobs, peer._count, peer._nbytes, peer._questions, not peer.idle.is_set()


NOTHING: Any = ({}, 0, 0, {}, False)


class Replies(SeparateReplies):
    """Notes the answers to the parts of a job of so many parts."""

    def __init__(self, count: int) -> None:
        self.outcomes: list[Any] = []
        self.all_answered = asyncio.Event()
        self._count = count

    def __call__(self, outcome: Any) -> None:
        self.outcomes.append(outcome)
        if len(self.outcomes) == self._count:
            self.all_answered.set()

    def subset_reply(self, indexes: Any) -> Any:
        return self


async def outcome_of(job: Any, both: TwoWorkers) -> Any:
    asked = asyncio.ensure_future(both.engines[0].ask(job))
    done, _ = await asyncio.wait([asked], timeout=20)
    assert done, "the job is never answered"
    return asked.exception() or asked.result()


async def test_a_job_that_cannot_be_encoded_is_answered_and_not_counted(start):
    chunk = Advance(THERE, ROWS, options=ChunkOptions(rate=HUGE))
    several = AdvanceMany(SessionList([THERE, HERE]), ROWS, np.ones(2, np.int64), model=HUGE)
    async with start() as both:
        submitted = []
        chunk.reply = submitted.append
        try:
            both.engines[0].submit(chunk)
        except OverflowError:
            submitted.append("raised")
        assert ([type(outcome) for outcome in submitted], left_behind(both)) == ([StepFailed], NOTHING)
        assert "cannot be sent to the worker" in submitted[0].detail
        answer = await outcome_of(several, both)
        assert type(answer.errors[0]) is StepFailed
        assert type(answer.errors[1]) is not StepFailed, "the part that stayed here was looked at"
        (peer,) = both.workers(0)._peers.values()
        with pytest.raises(OverflowError):
            await peer.ask("count_sessions", HUGE)
        assert left_behind(both) == NOTHING
        assert type(await outcome_of(Advance(THERE, ROWS), both)) is not StepFailed


async def test_an_answer_that_cannot_be_encoded_is_an_error(start, monkeypatch):
    encode = frames.encode

    def failing(value: Any) -> bytes:
        outcome = value.outcome if type(value) is PartAnswer else value
        if type(outcome) in (BulkAnswer, ChunkAnswer, SessionView):
            raise OverflowError("cursed")
        return encode(value)

    async with start() as both:
        assert (await both.ways[0].advance(THERE, ROWS, 0)).status == 200
        with monkeypatch.context() as patch:
            patch.setattr(frames, "encode", failing)
            chunks = AdvanceMany(SessionList([THERE]), ROWS, np.array([2]), np.array([2]))
            for job in (chunks, Inspect(THERE)):
                assert type(await outcome_of(job, both)) is StepFailed
            # The second chunk is refused by itself, so each is answered by itself.
            replies, lengths = Replies(2), np.ones(2, np.int64)
            two = AdvanceMany(SessionList([THERE, OTHER]), ROWS, lengths, np.array([4, 9]), reply=replies)
            both.engines[0].submit(two)
            with suppress(TimeoutError):
                await asyncio.wait_for(replies.all_answered.wait(), 20)
            assert {type(outcome) for outcome in replies.outcomes} == {StepFailed, UnknownSession}
        assert left_behind(both) == NOTHING
        again = await both.ways[0].advance(THERE, ROWS[:1], 4)
        assert (again.status, again.position, again.replayed) == (200, 5, True)


@pytest.mark.parametrize("number", [HUGE, 2**64], ids=["10**30", "2**64"])
async def test_a_number_beyond_64_bits_does_not_get_as_far_as_the_other_worker(start, number):
    async with start() as both:
        http = both.ways[0].http
        chunk = {"observations": [[0.5]], "rate": number}
        answers = [
            await http.post(f"/sessions/{THERE}/observations", json=chunk),
            *[await http.get(f"/sessions/{THERE}/history?{name}={number}") for name in ("last", "limit")],
            await http.post(f"/sessions/{THERE}/generate", json={"prompt": "a", "steps": 1, "top_k": number}),
        ]
        found = [(answer.status_code, answer.json().get("field")) for answer in answers]
        assert found == [(422, field) for field in ("rate", "last", "limit", "top_k")]
        assert left_behind(both) == NOTHING
