"""The promises hold for native networks that are no LSTM with a linear readout: a GRU with a head, tokens."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from models.artifact.files import save
from tests.helpers import zoo
from tests.helpers.faults import held, queued
from tests.helpers.ways import WAYS
from tests.helpers.zoo import TOLERANCE, one_pass, rolled_out, series

pytestmark = pytest.mark.anyio
in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)
on_disk = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
of_each = pytest.mark.parametrize("model", ["gru", "tokens"])
SMALL = {"resident_sessions": 2, "batch_sessions": 2}  # so that sessions are stored and loaded again


def equal(got, want):
    assert_allclose(got, want, atol=TOLERANCE, rtol=0)


@of_each
@pytest.mark.parametrize("way", WAYS, indirect=True)
async def test_chunks_are_one_pass_and_a_chunk_sent_again_is_answered_again(
    start, artifacts, model, way, store
):
    rows = series(model, 30)
    want = one_pass(artifacts[model], rows)
    async with start(**SMALL) as service:
        equal((await service.advance("a", rows[:1], 0, model=model)).numbers, want[:1])
        first = await service.advance("a", rows[1:20], 1)
        equal(first.numbers, want[1:20])
        for name in ("x", "y", "z"):  # evicts the session
            await service.advance(name, rows[:1], 0, model=model)
        again = await service.advance("a", rows[1:20], 1)
        assert again.replayed
        assert_array_equal(again.numbers, first.numbers)
        equal((await service.advance("a", rows[20:], 20)).numbers, want[20:])


@of_each
async def test_a_session_is_forked_reset_exported_and_imported(start_http, artifacts, model, store):
    rows = series(model, 20)
    want = one_pass(artifacts[model], rows)
    async with start_http(**SMALL) as service:
        await service.advance("a", rows[:10], 0, model=model)
        assert (await service.http.post("/sessions/a/fork", json={"id": "b"})).status_code == 201
        file = (await service.http.get("/sessions/a/state")).content
        assert (await service.http.post("/sessions/a/reset")).status_code == 200
        equal((await service.advance("a", rows, 10)).numbers, want)
        assert (await service.http.put("/sessions/c/state", content=file)).status_code == 200
        for name in "bc":
            equal((await service.advance(name, rows[10:], 10)).numbers, want[10:])


@on_disk
@of_each
async def test_a_session_goes_on_after_a_restart(start_http, artifacts, model):
    rows = series(model, 20)
    async with start_http() as service:
        await service.advance("a", rows[:10], 0, model=model)
    async with start_http() as service:
        equal((await service.advance("a", rows[10:], 10)).numbers, one_pass(artifacts[model], rows)[10:])


@in_memory
async def test_a_gru_forecasts_by_its_own_predictions(start_http, artifacts, store):
    rows = series("gru", 20)
    async with start_http() as service:
        answer = await service.http.post(
            "/sessions/a/observations", json={"model": "gru", "observations": rows.tolist(), "horizon": 12}
        )
    assert_allclose(answer.json()["forecast"], rolled_out(artifacts["gru"], rows, 12), rtol=1e-5, atol=1e-6)


@in_memory
async def test_sessions_keep_their_gru_until_reset_when_the_model_becomes_an_lstm(
    start_http, store, tmp_path
):
    older = zoo.made("gru", hidden=8, layers=2, seed=1, change=True, architecture=zoo.GRU)
    newer = zoo.made("gru", hidden=6, layers=1, seed=2)
    rows = series("gru", 30)
    save(older, tmp_path / "gru")
    async with start_http(models=(tmp_path,), default_model="gru") as service:
        await service.advance("a", rows[:10], 0)
        save(newer, tmp_path / "gru")
        assert (await service.http.post("/models/gru/reload")).json()["changed"]
        equal((await service.advance("a", rows[10:], 10)).numbers, one_pass(older, rows)[10:])
        await service.http.post("/sessions/a/reset")
        equal((await service.advance("a", rows, 30)).numbers, one_pass(newer, rows))


@in_memory
@pytest.mark.parametrize("token", [-1.0, 5.0, 2.5, 1e30])
async def test_an_unknown_token_is_refused_by_name_and_its_neighbours_are_answered(
    start_http, artifacts, store, token
):
    rows = series("tokens", 6)
    bad = rows.copy()
    bad[4, 0] = token
    async with start_http() as service:
        for name in "ab":
            await service.advance(name, rows, 0, model="tokens")
        async with held(service.engine) as release:
            posts = [
                asyncio.ensure_future(
                    service.http.post(f"/sessions/{name}/observations", json={"observations": chunk.tolist()})
                )
                for name, chunk in (("a", bad), ("b", rows))
            ]
            await queued(service.engine, "ab")
            release.set()
            refused, answered = await asyncio.gather(*posts)
        assert refused.status_code == 422
        assert "token is" in refused.json()["detail"]
        assert (await service.session("a"))["position"] == 6
        both = np.concatenate([rows, rows])
        equal(answered.json()["predictions"], one_pass(artifacts["tokens"], both)[6:])


@in_memory
async def test_a_model_says_what_it_is_made_of(start_http, store):
    async with start_http() as service:
        models = {model["name"]: model for model in (await service.http.get("/models")).json()["models"]}
    assert models["gru"]["architecture"] == {
        "cell": "gru",
        "head": ["layer_norm", 12, "relu"],
        "embedding": None,
    }
    assert models["sine"]["architecture"] == {"cell": "lstm", "head": [], "embedding": None}
    assert models["tokens"]["architecture"]["embedding"] == {"vocabulary": 5, "width": 7}
    assert not models["tokens"]["can_forecast"]
