"""Sessions that a commit could not write are taken out of their batch, and nothing else of it changes."""

from __future__ import annotations

from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from app.config import Settings
from app.engine.engine import Engine
from app.errors import CarryoverError, StepFailed
from app.jobs.jobs import Advance, AdvanceMany, Delete, Fork, Inspect
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from models.forecaster import Forecaster
from tests.conftest import Clock
from tests.helpers.faults import WritesThrough
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
    settings = Settings(**({"resident_sessions": 1024, "batch_sessions": 64, "bulk_sessions": 64} | changes))
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


async def settled(engine: Engine) -> None:
    """Ten observations of each session, so that it has intervals and scores."""
    for at in range(0, 10, 2):
        await engine.ask(adaptive(at))


@pytest.mark.parametrize("score", [False, True], ids=["together", "each alone"])
@pytest.mark.parametrize("error", [None, LOST], ids=["tried again", "refused"])
@pytest.mark.parametrize("lost", [["s0"], ["s1", "s2"], NAMES])
async def test_the_answers_of_the_other_sessions_are_those_without_a_conflict(artifacts, lost, error, score):
    options = ChunkOptions(score=True) if score else None  # with options each chunk is a job of its own
    async with started(artifacts) as (engine, _):
        await settled(engine)
        plain = await engine.ask(adaptive(10, options))
    async with started(artifacts) as (engine, conflicts):
        await settled(engine)
        conflicts |= dict.fromkeys(lost, error)
        answer = await engine.ask(adaptive(10, options))
        refused = {NAMES.index(name) for name in lost} if error is not None else set()
        assert set(answer.errors) == refused
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
