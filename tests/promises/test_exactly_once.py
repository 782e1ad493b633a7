"""What `at` and `epoch` promise, and what reset, fork and forecast do to it."""

import asyncio

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.helpers.faults import held, queued
from tests.helpers.ways import check_problem
from tests.helpers.zoo import one_pass, rolled_out, series
from tests.promises.test_promises import equal

pytestmark = pytest.mark.anyio


@pytest.mark.every_pair
async def test_a_retry_is_answered_again_and_moves_nothing(start, artifacts):
    whole = series("sine", 10)
    async with start() as service:
        first = await service.advance("a", whole[:4], 0)
        for _ in range(3):
            again = await service.advance("a", whole[:4], 0)
            assert (again.replayed, again.position, again.epoch) == (True, 4, first.epoch)
            assert_array_equal(again.numbers, first.numbers)
        assert not first.replayed
        equal((await service.advance("a", whole[4:], 4)).numbers, one_pass(artifacts["sine"], whole)[4:])


async def test_without_at_a_chunk_is_applied_every_time(start):
    async with start() as service:
        assert [(await service.advance("a", [[0.5]])).position for _ in range(3)] == [1, 2, 3]


@pytest.mark.every_pair
async def test_the_last_eight_chunks_are_replayed_and_older_ones_refused(start):
    whole = series("pair", 20)
    async with start() as service:
        answers = [
            await service.advance("a", whole[2 * i : 2 * i + 2], 2 * i, model="pair") for i in range(10)
        ]
        for i in range(10):
            again = await service.advance("a", whole[2 * i : 2 * i + 2], 2 * i)
            if i < 2:
                assert (again.status, again.position) == (409, 20)
            else:
                assert (again.replayed, again.position) == (True, 2 * i + 2)
                assert_array_equal(again.numbers, answers[i].numbers)


async def test_how_many_chunks_are_replayed_is_a_setting(start):
    async with start(recent_chunks=1) as service:
        await service.advance("a", [[0.1]], 0)
        await service.advance("a", [[0.2]], 1)
        assert (await service.advance("a", [[0.1]], 0)).status == 409
        assert (await service.advance("a", [[0.2]], 1)).replayed


async def test_remembered_answers_are_bound_in_bytes_and_the_last_always_stays(start):
    whole = series("sine", 600)
    async with start(recent_bytes=1000) as service:
        for at in (0, 200, 400):
            await service.advance("a", whole[at : at + 200], at)
        assert (await service.advance("a", whole[400:], 400)).replayed
        assert (await service.advance("a", whole[200:400], 200)).status == 409
        for slab in service.engine.residents.models.slabs.values():
            kept = [
                one["predictions"].nbytes for answers in slab.long_answers.values() for one in answers if one
            ]
            assert sum(kept) <= 1000 + 800


@pytest.mark.every_pair
async def test_a_retry_survives_eviction(start):
    whole = series("sine", 6)
    async with start(resident_sessions=2, batch_sessions=2) as service:
        first = await service.advance("a", whole, 0, horizon=3)
        for i in range(6):
            await service.advance(f"other{i}", [[0.1]], 0)
        again = await service.advance("a", whole, 0, horizon=3)
        assert again.replayed
        assert_array_equal(again.numbers, first.numbers)
        assert_array_equal(again.forecast, first.forecast)


async def test_a_replay_with_a_horizon_has_the_forecast_and_another_horizon_is_another_chunk(
    start, artifacts
):
    whole = series("sine", 5)
    async with start() as service:
        first = await service.advance("a", whole, 0, horizon=7)
        equal(first.numbers, one_pass(artifacts["sine"], whole))
        equal(first.forecast, rolled_out(artifacts["sine"], whole, 7))
        again = await service.advance("a", whole, 0, horizon=7)
        assert again.replayed
        assert_array_equal(again.forecast, first.forecast)
        for horizon in (None, 6):
            other = await service.advance("a", whole, 0, horizon=horizon)
            assert (other.status, other.position) == (409, 5)


async def test_another_chunk_at_the_place_of_the_last_is_refused_and_says_so(start):
    whole = series("sine", 8)
    async with start() as service:
        await service.advance("a", whole[:4], 0)
        other = await service.advance("a", whole[4:], 0)
        assert (other.status, other.position) == (409, 4)
        assert "another chunk" in other.problem["detail"]
        for rows, at in ((whole[:3], 0), (whole[1:4], 1), (whole[:4], 3), (whole[:1], 5)):
            reply = await service.advance("a", rows, at)
            assert (reply.status, reply.position) == (409, 4)


async def test_of_two_posts_at_once_both_are_applied_one_after_the_other(start, artifacts):
    whole = series("sine", 7)
    async with start() as service:
        await service.advance("a", whole[:1])
        async with held(service.engine) as release:
            posts = [asyncio.ensure_future(service.advance("a", whole[1:4])) for _ in range(2)]
            await queued(service.engine, "a")
            release.set()
            replies = await asyncio.gather(*posts)
        assert sorted(reply.position for reply in replies) == [4, 7]
        want = one_pass(artifacts["sine"], np.concatenate([whole[:4], whole[1:4]]))
        by_position = sorted(replies, key=lambda reply: reply.position)
        equal(np.concatenate([reply.numbers for reply in by_position]), want[1:])


async def test_of_two_posts_at_once_with_the_same_at_one_wins_and_the_other_gets_the_replay(start):
    whole = series("sine", 4)
    async with start() as service:
        replies = await asyncio.gather(*(service.advance("a", whole, 0) for _ in range(5)))
        assert sorted(reply.replayed for reply in replies) == [False, True, True, True, True]
        for reply in replies:
            assert_array_equal(reply.numbers, replies[0].numbers)
        assert (await service.session("a"))["position"] == 4


async def test_of_two_different_posts_with_the_same_at_one_wins_and_the_other_gets_409(start):
    whole = series("sine", 8)
    async with start() as service:
        first, second = await asyncio.gather(
            service.advance("a", whole[:4], 0), service.advance("a", whole[4:], 0)
        )
        assert sorted([first.status, second.status]) == [200, 409]
        assert (await service.session("a"))["position"] == 4


async def test_a_chunk_of_another_epoch_is_refused_and_tells_the_right_one(start):
    async with start() as service:
        first = await service.advance("a", [[0.1]], 0)
        await service.http.delete("/sessions/a")
        second = await service.advance("a", [[0.1]], 0)
        assert first.epoch != second.epoch
        for at, rows in ((0, [[0.1]]), (1, [[0.2]]), (None, [[0.2]])):
            reply = await service.advance("a", rows, at, epoch=first.epoch)
            assert reply.status == 409
            assert reply.problem["epoch"] == second.epoch
        assert (await service.advance("a", [[0.1]], 0, epoch=second.epoch)).replayed
        assert (await service.advance("a", [[0.2]], 1, epoch=second.epoch)).position == 2


async def test_reset_zeroes_the_carry_and_not_the_position(start, artifacts):
    whole = series("pair", 20)
    async with start() as service:
        await service.advance("a", whole[:9], 0, model="pair")
        shown = (await service.http.post("/sessions/a/reset")).json()
        assert (shown["position"], shown["observations_since_reset"], shown["last_prediction"]) == (
            9,
            0,
            None,
        )
        reply = await service.advance("a", whole[9:], 9)
        equal(reply.numbers, one_pass(artifacts["pair"], whole[9:]))
        assert reply.position == 20


async def test_a_delayed_duplicate_from_before_a_reset_is_refused(start):
    whole = series("sine", 9)
    async with start() as service:
        for at in (0, 3):
            await service.advance("a", whole[at : at + 3], at)
        await service.http.post("/sessions/a/reset")
        for at in (0, 3):
            reply = await service.advance("a", whole[at : at + 3], at)
            assert (reply.status, reply.position) == (409, 6)
        assert (await service.advance("a", whole[6:], 6)).position == 9


async def test_a_chunk_that_was_not_applied_before_a_reset_is_applied_after_it(start, artifacts):
    whole = series("sine", 6)
    async with start() as service:
        await service.advance("a", whole[:3], 0)
        await service.http.post("/sessions/a/reset", json={"at": 3})
        late = await service.advance("a", whole[3:], 3)  # sent before the reset, and arrives after it
        assert (late.status, late.position) == (200, 6)
        equal(late.numbers, one_pass(artifacts["sine"], whole[3:]))


@pytest.mark.parametrize("call", ["reset", "fork", "delete"])
async def test_reset_fork_and_delete_mind_at_and_epoch(start_http, call):
    async with start_http() as service:
        epoch = (await service.advance("a", [[0.1], [0.2]], 0)).epoch

        async def send(**claims):
            if call == "delete":
                return await service.http.delete("/sessions/a", params=claims)
            return await service.http.post(f"/sessions/a/{call}", json=claims)

        for claims in ({"at": 1}, {"at": 3}, {"epoch": "0" * 15 + "1"}, {"at": 2, "epoch": "nonsense"}):
            response = await send(**claims)
            assert response.status_code == 409, response.text
            assert check_problem(response)["type"] == "urn:carryover:out-of-step"
        assert (await service.session("a"))["observations_since_reset"] == 2
        assert (await send(at=2, epoch=epoch)).is_success


async def test_the_two_sides_of_a_fork_part_ways(start, artifacts):
    whole, other = series("pair", 20), series("pair", 20, seed=9)
    async with start() as service:
        await service.advance("a", whole[:10], 0, model="pair")
        response = await service.http.post("/sessions/a/fork", json={"id": "b", "at": 10})
        assert response.status_code == 201
        assert response.headers["location"] == "/sessions/b"
        shown = response.json()
        assert (shown["session"], shown["position"], shown["model"]) == ("b", 10, "pair")
        assert shown["epoch"] != (await service.session("a"))["epoch"]
        equal((await service.advance("b", other[10:], 10)).numbers,
              one_pass(artifacts["pair"], np.concatenate([whole[:10], other[10:]]))[10:])  # fmt: skip
        equal((await service.advance("a", whole[10:], 10)).numbers, one_pass(artifacts["pair"], whole)[10:])
        stale = await service.advance("b", whole[:10], 0)  # answered to a, not to b
        assert (stale.status, stale.position) == (409, 20)


async def test_a_fork_onto_a_session_that_is_there_is_refused(start_http):
    async with start_http() as service:
        for name in "ab":
            await service.advance(name, [[0.1]], 0)
        for into in "ab":
            response = await service.http.post("/sessions/a/fork", json={"id": into})
            assert (response.status_code, check_problem(response)["type"]) == (
                409,
                "urn:carryover:session-exists",
            )


@pytest.mark.parametrize("model", ["sine", "pair"])
async def test_a_forecast_feeds_predictions_back_and_moves_nothing(start, artifacts, model):
    whole = series(model, 40)
    async with start() as service:
        await service.advance("a", whole[:30], 0, model=model)
        for _ in range(2):
            answer = (await service.http.get("/sessions/a/forecast", params={"steps": 25})).json()
            want = rolled_out(artifacts[model], whole[:30], 25)
            np.testing.assert_allclose(
                np.array(answer["forecast"]), want, atol=1e-4 if model == "pair" else 2e-6
            )
            assert answer["position"] == 30
        equal((await service.advance("a", whole[30:], 30)).numbers, one_pass(artifacts[model], whole)[30:])


async def test_a_forecast_is_refused_and_names_the_inputs_that_are_not_predicted(start):
    async with start() as service:
        await service.advance("a", [[0.1, 0.2]], 0, model="partial")
        answer = check_problem(await service.http.get("/sessions/a/forecast", params={"steps": 5}))
        refused = await service.advance("a", [[0.1, 0.2]], 1, horizon=5)
        for problem in (answer, refused.problem):
            assert (problem["status"], problem["missing"]) == (422, ["a"])
            assert "input a" in problem["detail"]
        assert (await service.session("a"))["position"] == 1


async def test_a_forecast_before_the_first_observation_is_refused(start_http):
    async with start_http() as service:
        await service.http.post("/sessions", json={"id": "a"})
        for _ in range(2):
            response = await service.http.get("/sessions/a/forecast", params={"steps": 5})
            assert check_problem(response)["type"] == "urn:carryover:nothing-observed"
            await service.advance("a", [[0.1]])
            await service.http.post("/sessions/a/reset")
