"""Sessions that a commit could not write are taken out of their batch, and nothing else of it changes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from app.config import Settings
from app.engine.batch import Batch, StagedRows
from app.engine.engine import Engine
from app.engine.withdraw import withdraw
from app.errors import CarryoverError, StepFailed
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import Advance, AdvanceMany, Create, Delete, Fork, Inspect
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from models.forecaster import Forecaster
from tests.helpers.faults import WritesThrough
from tests.helpers.services import Clock
from tests.helpers.zoo import one_pass, rolled_out, series

pytestmark = pytest.mark.anyio

NAMES = ["s0", "s1", "s2", "s3"]
LOST = StepFailed("planted: it cannot be written")


class Conflicting(WritesThrough):
    """A store that does not write these sessions the next time that they are committed.

    Their value is what `Store.commit` returns for them: None where another replica moved them on, else the
    error that their jobs are refused with.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(100, 1e9, clock)
        self.conflicts: dict[str, CarryoverError | None] = {}

    def commit(self, blocks, tombstones):
        involved = {name for block in blocks for name in block.sessions}
        involved.update(tombstone.session for tombstone in tombstones)
        found = {name: self.conflicts.pop(name) for name in involved & self.conflicts.keys()}
        blocks = [rest for block in blocks if (rest := block.without(found))]
        kept = [tombstone for tombstone in tombstones if tombstone.session not in found]
        return {**super().commit(blocks, kept), **found}


@asynccontextmanager
async def started(artifacts, **changes):
    clock = Clock()
    store = Conflicting(clock)
    forecasters = [Forecaster(artifacts["sine"]), Forecaster(artifacts["adaptive"])]
    small = {"resident_sessions": 1024, "batch_sessions": 64, "bulk_sessions": 64}
    settings = Settings(**(small | {"default_model": "sine"} | changes))
    engine = Engine(forecasters, store, settings, clock)
    engine.start()
    yield engine, store.conflicts
    await engine.stop()


def adaptive(at: int, options: ChunkOptions | None = None) -> AdvanceMany:
    """A chunk of two observations for each of `NAMES`."""
    rows = np.concatenate([series("adaptive", 12, seed)[at : at + 2] for seed in range(len(NAMES))])
    column = np.full(len(NAMES), at)
    return AdvanceMany(
        SessionList(NAMES), rows, np.full(len(NAMES), 2), column, model="adaptive", options=options
    )


async def settled(engine: Engine, level: float | None) -> None:
    """Ten observations of each session, so that it has intervals and scores.

    Parameters
    ----------
    level : of the intervals that the sessions want with every chunk
    """
    for name in NAMES:
        await engine.ask(Create(name, "adaptive", level=level))
    for at in range(0, 10, 2):
        await engine.ask(adaptive(at))


@pytest.mark.parametrize("level", [None, 0.8], ids=["plain", "intervals"])
@pytest.mark.parametrize("score", [False, True], ids=["together", "each alone"])
@pytest.mark.parametrize("error", [None, LOST], ids=["tried again", "refused"])
@pytest.mark.parametrize("lost", [["s0"], ["s1", "s2"], NAMES])
async def test_the_answers_of_the_other_sessions_are_those_without_a_conflict(
    artifacts, lost, error, score, level
):
    options = ChunkOptions(score=True) if score else None  # with options each chunk is a job of its own
    async with started(artifacts) as (engine, _):
        await settled(engine, level)
        plain = await engine.ask(adaptive(10, options))
    async with started(artifacts) as (engine, conflicts):
        await settled(engine, level)
        conflicts |= dict.fromkeys(lost, error)
        asked = asyncio.ensure_future(engine.ask(adaptive(10, options)))
        await asyncio.wait([asked], timeout=10)
        assert asked.done(), "never answered"
        answer = await asked
        refused = {NAMES.index(name) for name in lost} if error is not None else set()
        assert set(answer.errors) == refused
        wanted = (["lower", "upper"] if level else []) + (["residuals", "scores"] if score else [])
        assert set(plain.extra_outputs) == set(wanted)
        assert answer.positions.tolist() == [-1 if i in refused else 12 for i in range(len(NAMES))]
        for name, outputs in plain.extra_outputs.items():
            found = answer.extra_outputs.get(name, {})
            assert found.keys() == outputs.keys() - refused
            for i in outputs.keys() - refused:
                assert_array_equal(found[i], outputs[i])
        kept = [i for i in range(len(NAMES)) if i not in refused]
        width = len(plain.predictions) // len(NAMES)
        assert_array_equal(answer.predictions.reshape(-1, width), plain.predictions.reshape(-1, width)[kept])
        for i, name in enumerate(NAMES):
            assert (await engine.ask(Inspect(name))).position == (10 if i in refused else 12)


def test_outputs_stay_with_their_sessions_when_others_are_taken_out():
    job = AdvanceMany(SessionList(NAMES), np.zeros((4, 2), np.float32), np.ones(4, np.int64))
    lower = {i: np.full((1, 2), i, np.float32) for i in (0, 1, 3)}
    answer = BulkAnswer(
        np.arange(4), np.arange(4, dtype=np.uint64), np.ones(4, np.int64), 2, np.arange(8, dtype=np.float32),
        extra_outputs={"lower": lower},
    )  # fmt: skip
    batch = Batch(0.0, [job], answers_if_committed=[(job, answer)], retries=[])
    withdraw(batch, {"s0": None, "s2": LOST})
    ((rest, part),) = batch.answers_if_committed
    assert (list(rest.sessions), part.positions.tolist()) == (["s1", "s3"], [1, 3])
    assert part.predictions.tolist() == [2, 3, 6, 7]
    assert {i: rows.tolist() for i, rows in part.extra_outputs["lower"].items()} == {0: [[1, 1]], 1: [[3, 3]]}
    assert [list(job.sessions) for job in batch.retries] == [["s0"]]
    assert [(list(job.sessions), error) for job, error in batch.final_answers] == [(["s2"], LOST)]


async def test_a_chunk_in_slices_that_is_tried_again_begins_at_its_start(artifacts):
    whole = series("sine", 500)
    async with started(artifacts) as (engine, conflicts):
        await engine.ask(Advance("a", whole[:3], 0))
        conflicts["a"] = None
        answer = await engine.ask(Advance("a", whole[3:], 3, horizon=5))
        assert answer.position == 500
        assert_allclose(answer.answer["predictions"], one_pass(artifacts["sine"], whole)[3:], atol=2e-6)
        assert_allclose(answer.answer["forecast"], rolled_out(artifacts["sine"], whole, 5), atol=1e-4)


@pytest.mark.parametrize("error", [None, LOST], ids=["tried again", "refused"])
async def test_a_fork_is_made_whole_or_not_at_all(artifacts, error):
    async with started(artifacts) as (engine, conflicts):
        await engine.ask(Advance("origin", series("sine", 3), 0))
        conflicts["copy"] = error
        if error is not None:
            with pytest.raises(StepFailed):
                await engine.ask(Fork("origin", "copy"))
            assert engine.residents.find("copy") is None
            assert (len(engine.residents), engine.metrics.created) == (1, 1)
        assert (await engine.ask(Fork("origin", "copy"))).position == 3
        assert (await engine.ask(Advance("copy", series("sine", 1), 3))).position == 4
        assert (len(engine.residents), engine.metrics.created) == (2, 2)


@pytest.mark.parametrize("error", [None, LOST], ids=["tried again", "refused"])
@pytest.mark.parametrize("answered", ["answers_if_committed", "retries"])
def test_a_copy_of_a_session_that_is_taken_out_is_not_written(error, answered):
    """Another replica has changed the origin: the copy was made of an outdated carry."""
    fork, other = Fork("origin", "copy"), Advance("other", np.zeros((1, 1), np.float32))
    staged = [StagedRows(None, [name], np.array([i]), None) for i, name in enumerate(("copy", "other"))]
    batch = Batch(0.0, [fork, other], staged=list(staged), answers_if_committed=[(other, LOST)], retries=[])
    getattr(batch, answered).append(fork if answered == "retries" else (fork, LOST))
    withdraw(batch, {"origin": error})
    assert batch.staged == staged[1:]
    assert batch.answers_if_committed == [(other, LOST)]
    assert batch.retries == ([fork] if error is None else [])
    assert batch.final_answers == ([] if error is None else [(fork, error)])


@pytest.mark.parametrize("error", [None, LOST], ids=["tried again", "refused"])
async def test_a_session_whose_removal_is_not_written_stays(artifacts, error):
    async with started(artifacts) as (engine, conflicts):
        await engine.ask(Advance("a", series("sine", 3), 0))
        conflicts["a"] = error
        if error is None:
            assert await engine.ask(Delete("a")) is None
            assert engine.residents.find("a") is None
            return
        with pytest.raises(StepFailed):
            await engine.ask(Delete("a"))
        assert (await engine.ask(Inspect("a"))).position == 3
        assert engine.metrics.deleted == 0
