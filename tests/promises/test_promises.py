"""What must hold for every stream and for the sessions that share a batch with it."""

import asyncio

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from models.forecaster import Forecaster
from tests.helpers.faults import CURSED, blow_up_on_curse, forecaster, held, queued, raise_on_curse
from tests.helpers.ways import WAYS, HotRoute, HttpRoute, TextSocket
from tests.helpers.zoo import TOLERANCE, one_pass, series

pytestmark = pytest.mark.anyio
in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)


def cuts(steps: int, seed: int, longest: int = 15) -> list[int]:
    """Chunk sizes at random, `steps` together."""
    rng, sizes = np.random.default_rng(seed), []
    while (left := steps - sum(sizes)) > 0:
        sizes.append(int(min(rng.integers(1, longest + 1), left)))
    return sizes


def equal(got, want):
    assert_allclose(got, want, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("model", "longest"),
    [("sine", 1), ("pair", 12), ("partial", 5), ("pair", 100), ("gru", 12), ("tokens", 9)],
)
async def test_chunks_of_any_sizes_equal_one_pass_over_the_whole_series(start, artifacts, model, longest):
    whole = series(model, 120)
    async with start() as service:
        got = await service.stream("a", whole, cuts(120, seed=longest, longest=longest), model)
    equal(got, one_pass(artifacts[model], whole))


async def test_interleaved_sessions_of_several_models_equal_their_own_passes(start, artifacts):
    models = ["sine", "pair", "gru", "sine", "tokens", "sine"]
    wholes = [series(model, 80, seed) for seed, model in enumerate(models)]
    async with start() as service:
        streams = (
            service.stream(f"s{i}", whole, cuts(80, i), model)
            for i, (model, whole) in enumerate(zip(models, wholes, strict=True))
        )
        for model, whole, got in zip(models, wholes, await asyncio.gather(*streams), strict=True):
            equal(got, one_pass(artifacts[model], whole))


async def test_no_bit_of_an_answer_depends_on_the_cuts_of_its_stream_or_on_its_neighbours(start, artifacts):
    models = ["sine", "pair", "gru", "adaptive", "sine", "pair", "adaptive"]
    wholes = [series(model, 60, seed) for seed, model in enumerate(models)]
    async with start(resident_sessions=4, batch_sessions=4) as service:
        streams = (
            service.stream(f"s{i}", whole, cuts(60, i), model)
            for i, (model, whole) in enumerate(zip(models, wholes, strict=True))
        )
        answers = await asyncio.gather(*streams)
    for model, whole, got in zip(models, wholes, answers, strict=True):
        alone = Forecaster(artifacts[model])
        want, _ = alone.advance(whole, np.array([len(whole)]), alone.new_carry[None])
        assert_array_equal(np.asarray(got, np.float32), want)


async def test_chunks_equal_one_pass_even_through_eviction(start, artifacts):
    wholes = {f"s{i}": series("pair", 30, i) for i in range(24)}
    async with start(resident_sessions=4, batch_sessions=4) as service:
        streams = [service.stream(name, whole, cuts(30, 5), "pair") for name, whole in wholes.items()]
        for whole, got in zip(wholes.values(), await asyncio.gather(*streams), strict=True):
            equal(got, one_pass(artifacts["pair"], whole))
        assert service.engine.residents.resident <= 4
        assert len(service.engine.residents) == 24
        shown = [(await service.session(name))["position"] for name in wholes]
        assert shown == [30] * 24


async def test_a_flat_list_is_answered_flat_and_a_nested_one_nested(start):
    async with start() as service:
        for session, rows in (("flat", [0.5, 0.25]), ("nested", [[0.5], [0.25]])):
            response = await service.http.post(
                f"/sessions/{session}/observations", json={"observations": rows}
            )
            predictions = response.json()["predictions"]
            assert list(map(type, predictions)) == list(map(type, rows))


async def test_a_batch_of_valid_chunks_is_one_pass(start, artifacts):
    names = [f"s{i}" for i in range(8)]
    async with start() as service:
        sine, passes = forecaster(service.engine), []
        advance = sine.advance
        sine.advance = lambda rows, lengths, carries: (
            passes.append(len(lengths)) or advance(rows, lengths, carries)
        )
        async with held(service.engine) as release:
            posts = [asyncio.ensure_future(service.advance(name, series("sine", 3, i), 0))
                     for i, name in enumerate(names)]  # fmt: skip
            await queued(service.engine, names)
            release.set()
            replies = await asyncio.gather(*posts)
        assert passes[-1] == 8 or max(passes) >= 7  # the first may have slipped into a tick of its own
        for i, reply in enumerate(replies):
            equal(reply.numbers, one_pass(artifacts["sine"], series("sine", 3, i)))


BAD_BODIES = {
    "wrong width": (b'{"observations": [[1, 2]], "at": 5}', 422),
    "ragged": (b'{"observations": [[1], [1, 2]], "at": 5}', 422),
    "NaN": (b'{"observations": [[NaN]], "at": 5}', 422),
    "infinity": (b'{"observations": [[-Infinity]], "at": 5}', 422),
    "1e39": (b'{"observations": [[0.0], [1e39]], "at": 5}', 422),
    "1e400": (b'{"observations": [1e400], "at": 5}', 422),
    "null row": (b'{"observations": [[1], null], "at": 5}', 422),
    "empty chunk": (b'{"observations": [], "at": 5}', 422),
    "empty row": (b'{"observations": [[]], "at": 5}', 422),
    "text": (b'{"observations": ["1"], "at": 5}', 422),
    "ahead": (b'{"observations": [1], "at": 6}', 409),
    "behind": (b'{"observations": [1], "at": 4}', 409),
    "huge at": (b'{"observations": [1], "at": %d}' % 10**30, 422),
    "largest at": (b'{"observations": [1], "at": %d}' % (2**63 - 1), 409),
    "other epoch": (b'{"observations": [1], "at": 5, "epoch": "00000000000000ff"}', 409),
    "negative epoch": (b'{"observations": [1], "at": 5, "epoch": "-00000000000000f"}', 409),
    "other model": (b'{"observations": [1], "at": 5, "model": "pair"}', 409),
    "unknown model": (b'{"observations": [1], "at": 5, "model": "nope"}', 409),
    "no JSON": (b'{"observations": [1', 400),
    "no text": (b'{"observations": [1], "model": "\xff"}', 400),
    "cursed": (b'{"observations": [%f], "at": 5}' % CURSED, 500),
}


# Bodies are parsed by the plain route, the hot route and the socket. What the engine refuses is tested
# beside chunks of every way in.
# A text message that is not UTF-8 closes its socket: tests/protocols/test_socket_frames.py.
BY_PARSER = [
    (way, bad)
    for bad in BAD_BODIES
    for way in (HttpRoute, HotRoute, TextSocket)
    if (way, bad) != (TextSocket, "no text")
]
BY_ENGINE = [(way, bad) for bad in ("ahead", "cursed") for way in WAYS if (way, bad) not in BY_PARSER]


@in_memory
@pytest.mark.parametrize(("way", "bad"), BY_PARSER + BY_ENGINE, indirect=["way"])
async def test_a_bad_neighbour_fails_alone(start, artifacts, bad):
    """A batch of four valid chunks and a bad one; then every client retries, and goes on."""
    body, status = BAD_BODIES[bad]
    wholes = {f"s{i}": series("sine", 12, i) for i in range(4)}
    async with start() as service:
        raise_on_curse(forecaster(service.engine))
        for name, whole in (wholes | {"bad": series("sine", 12, 99)}).items():
            await service.advance(name, whole[:5], 0)
        async with held(service.engine) as release:
            first = [
                asyncio.ensure_future(service.advance(name, rows[5:8], 5)) for name, rows in wholes.items()
            ]
            refused = asyncio.ensure_future(service.raw("bad", body))
            await queued(service.engine, wholes)
            release.set()
            answers = await asyncio.gather(*first)
            assert (await refused).status == status, (await refused).problem
        for (name, whole), answer in zip(wholes.items(), answers, strict=True):
            want = one_pass(artifacts["sine"], whole)
            equal(answer.numbers, want[5:8])
            again = await service.advance(name, whole[5:8], 5)
            assert again.replayed
            assert_array_equal(again.numbers, answer.numbers)
            equal((await service.advance(name, whole[8:], 8)).numbers, want[8:])
        assert (await service.session("bad"))["position"] == 5
        good = await service.advance("bad", series("sine", 12, 99)[5:], 5)
        equal(good.numbers, one_pass(artifacts["sine"], series("sine", 12, 99))[5:])


async def test_a_step_that_raises_moves_nothing(start, artifacts):
    whole = series("sine", 9)
    async with start() as service:
        await service.advance("a", whole[:4], 0)
        sine = forecaster(service.engine)
        advance = sine.advance
        sine.advance = lambda *_: 1 / 0
        for name, at in (("a", 4), ("new", 0)):
            reply = await service.advance(name, whole[4:6], at)
            assert (reply.status, reply.problem["type"]) == (500, "urn:carryover:step-failed")
        sine.advance = advance
        assert (await service.session("a"))["position"] == 4
        assert (await service.http.get("/sessions/new")).status_code == 404
        equal((await service.advance("a", whole[4:], 4)).numbers, one_pass(artifacts["sine"], whole)[4:])


@in_memory
@pytest.mark.parametrize("spoilt", ["carry", "predictions"])
@pytest.mark.parametrize("steps", [1, 3])
async def test_a_network_that_produces_nan_or_infinity_is_a_500_for_that_session_alone(
    start, artifacts, spoilt, steps
):
    whole, cursed = series("sine", 8), np.full((steps, 1), CURSED)
    async with start() as service:
        blow_up_on_curse(forecaster(service.engine), spoilt)
        for name in ("a", "b", "c"):
            await service.advance(name, whole[:4], 0)
        async with held(service.engine) as release:
            posts = [
                asyncio.ensure_future(service.advance(name, rows, 4))
                for name, rows in (("a", whole[4:6]), ("b", cursed), ("c", whole[4:6]))
            ]
            await queued(service.engine, "abc")
            release.set()
            a, b, c = await asyncio.gather(*posts)
        want = one_pass(artifacts["sine"], whole)
        assert b.status == 500
        for reply in (a, c):
            equal(reply.numbers, want[4:6])
        equal((await service.advance("b", whole[4:], 4)).numbers, want[4:])


@in_memory
@pytest.mark.parametrize("number", [3e38, -3.4028234e38, 1e-45, 0.0])
async def test_any_finite_float32_is_applied_or_refused_and_the_session_goes_on(start, number, caplog):
    whole = series("pair", 6)
    async with start() as service:
        await service.advance("a", whole[:2], 0, model="pair")
        reply = await service.advance("a", [[number, number, -number]], 2)
        assert reply.status == (422 if abs(number) > 1e38 else 200)  # scaled, it is too large for a float32
        assert "raised" not in caplog.text, "a batch was stepped one by one because of it"
        at = 3 if reply.status == 200 else 2
        assert (await service.session("a"))["position"] == at
        assert np.isfinite((await service.advance("a", whole[2:], at)).numbers).all()
