"""Bugs planted in the service, to see that the promises' tests would notice them."""

import pytest

from app import main
from app.engine import admission
from app.engine.commit import Commit
from app.engine.residents import Residents
from app.engine.time_budget import TimeBudget
from app.jobs.session_list import SessionList
from app.session import recent_answers
from app.session.slab import Slab
from models.arrays import Ints
from models.forecaster import Forecaster
from tests.codec import test_bulk
from tests.helpers.faults import WritesThrough
from tests.helpers.ways import AsgiRoute
from tests.promises import test_commit, test_exactly_once, test_limits, test_promises

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("way", [AsgiRoute], indirect=True),
    pytest.mark.parametrize("store", ["memory"], indirect=True),
]
noticed = pytest.raises(AssertionError)  # by what a test says; another error would only mean a broken plant


async def test_a_reset_that_keeps_the_remembered_answers(start, monkeypatch):
    def keeping(rows, forecaster):
        rows.carries[:] = forecaster.reset(rows.carries)
        rows.headers["since_reset"] = 0

    monkeypatch.setattr(admission, "reset_sessions", keeping)
    with noticed:
        await test_exactly_once.test_a_delayed_duplicate_from_before_a_reset_is_refused(start)


async def test_a_reset_that_keeps_the_carry(start, artifacts, monkeypatch):
    write = Slab.write

    def keeping(slab, rows, values):
        if not values.carries.any():
            values.carries = slab.carries[rows]
        write(slab, rows, values)

    monkeypatch.setattr(Slab, "write", keeping)
    with noticed:
        await test_exactly_once.test_reset_zeroes_the_carry_and_not_the_position(start, artifacts)


async def test_a_digest_that_is_not_compared(start, monkeypatch):
    monkeypatch.setattr(recent_answers, "find", lambda rows, i, at, length: 0)
    with noticed:
        await test_exactly_once.test_another_chunk_at_the_place_of_the_last_is_refused_and_says_so(start)


async def test_sessions_published_before_the_commit(start, artifacts, monkeypatch):
    commit, publish = Commit.commit, Commit.publish

    async def publish_first(self, batch):
        publish(self, batch)
        await commit(self, batch)

    monkeypatch.setattr(Commit, "commit", publish_first)
    monkeypatch.setattr(Commit, "publish", lambda self, batch: None)
    with noticed:
        await through(start, test_commit.test_a_failed_commit_moves_nothing_and_the_retry_is_right, artifacts)


async def test_a_step_that_learns_in_the_resident_row(start, artifacts, monkeypatch):
    """Only a tick that fails shows it: the chunk that is sent again is learned from twice."""
    read, observe = Slab.read, Forecaster.observe

    resident = []

    def noting(slab, rows):
        resident.append((slab, rows))
        return read(slab, rows)

    def learning(forecaster, observations, lengths, carries):
        passed = observe(forecaster, observations, lengths, carries)
        slab, rows = resident[-1]
        slab.carries[rows] = passed.carries
        return passed

    async def promise(start, artifacts):
        await test_commit.test_after_a_failed_commit_nothing_was_learned_twice(start, artifacts, 1)

    await through(start, promise, artifacts)
    monkeypatch.setattr(Slab, "read", noting)
    monkeypatch.setattr(Forecaster, "observe", learning)
    with noticed:
        await through(start, promise, artifacts)


async def through(start, test, artifacts):
    """Run a test of test_commit.py, which needs a store that can fail."""
    opened = main.open_store
    try:
        main.open_store = lambda settings, **_: WritesThrough(settings.tombstones, 1e9)
        await test(start, artifacts)
    finally:
        main.open_store = opened


async def test_an_eviction_that_forgets_the_carry(start, artifacts, monkeypatch):
    make_room = Residents.make_room

    def forgetting(self, slab, count, staying):
        if slab.free_rows < count:
            slab.carries[:] = 0.0
        return make_room(self, slab, count, staying)

    monkeypatch.setattr(Residents, "make_room", forgetting)
    with noticed:
        await test_promises.test_chunks_equal_one_pass_even_through_eviction(start, artifacts)


async def test_a_step_that_fails_for_the_whole_batch_at_once(start, artifacts, monkeypatch):
    monkeypatch.setattr("app.engine.network_pass._one_by_one", lambda *_: 1 / 0)
    with noticed:
        await test_promises.test_a_bad_neighbour_fails_alone(start, artifacts, "cursed")


async def test_a_step_that_lets_what_is_not_finite_pass(start, artifacts, monkeypatch):
    monkeypatch.setattr("app.engine.network_pass._not_finite", lambda *_: {})
    with noticed:
        await test_promises.test_a_network_that_produces_nan_or_infinity_is_a_500_for_that_session_alone(
            start, artifacts, "carry", 1
        )


async def test_a_fork_that_shares_its_carry_with_the_other(start, artifacts, monkeypatch):
    admit_fork = admission._Commands._fork

    def spoiling(self, job, batch):
        admit_fork(self, job, batch)
        batch.staged[-1].after.carries[:] *= 0.9

    monkeypatch.setattr(admission._Commands, "_fork", spoiling)
    with noticed:
        await test_exactly_once.test_the_two_sides_of_a_fork_part_ways(start, artifacts)


async def test_a_forecast_that_moves_the_session(start, artifacts, monkeypatch):
    admit_forecast = admission._Commands._forecast

    def rolling(self, job, batch):
        admit_forecast(self, job, batch)
        slab, row, _ = batch.forecasts[-1]
        _, (slab.carries[row],) = slab.forecaster.roll_out(slab.carries[row : row + 1], 1, None)

    monkeypatch.setattr(admission._Commands, "_forecast", rolling)
    with noticed:
        await test_exactly_once.test_a_forecast_feeds_predictions_back_and_moves_nothing(
            start, artifacts, "sine"
        )


async def test_long_chunks_that_are_not_sliced(start, artifacts, monkeypatch):
    monkeypatch.setattr(TimeBudget, "max_steps", lambda self, sessions, seconds=0.0: 10**9)
    for module in ("step", "queue"):
        monkeypatch.setattr(f"app.engine.{module}.LONG_CHUNK", 10**9)
    with noticed:
        await test_limits.test_a_long_chunk_is_sliced_and_a_short_neighbour_answered_long_before(
            start, artifacts
        )


async def test_rows_of_a_session_list_that_are_looked_up_only_once(start, artifacts, monkeypatch):
    kept: dict[tuple[str, ...], Ints] = {}
    look_up = SessionList.rows

    def remembering(names: SessionList, slab: Slab) -> Ints | None:
        if names.names not in kept and (rows := look_up(names, slab)) is not None:
            kept[names.names] = rows
        return kept.get(names.names)

    monkeypatch.setattr(SessionList, "rows", remembering)
    with noticed:
        await test_bulk.test_a_list_sent_again_follows_sessions_that_left_and_rows_that_were_reused(
            start, artifacts, "json"
        )
