"""A model may change under live sessions: each keeps the network it has until it is reset."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading

import pytest
from numpy.testing import assert_allclose

from app import main
from app.config import Settings
from app.model_library import ModelLibrary
from models.artifact.files import save
from models.forecaster import Forecaster
from tests.helpers.faults import held, until
from tests.helpers.services import starter
from tests.helpers.ways import AsgiRoute, HotRoute
from tests.helpers.zoo import TOLERANCE, made, one_pass, series

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(artifacts, tmp_path):
    """A folder of our own with one model, which the test may overwrite."""
    save(artifacts["sine"], tmp_path / "zoo" / "sine")
    return tmp_path / "zoo"


@pytest.fixture
def newer():
    return made("sine", hidden=32, layers=2, seed=9)


async def reloaded(service):
    response = await service.http.post("/models/sine/reload")
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_session_keeps_its_network_until_reset_and_new_ones_get_the_newer(
    start_http, artifacts, folder, newer
):
    whole = series("sine", 12)
    async with start_http(models=(folder,)) as service:
        await service.advance("old", whole[:4])
        save(newer, folder / "sine")
        answer = await reloaded(service)
        assert (answer["changed"], answer["model"]["fingerprint"]) == (True, newer.fingerprint)
        assert answer["model"]["sessions_on_older"] == 1
        await service.advance("new", whole)
        got = await service.advance("old", whole[4:], 4)
        assert_allclose(got.numbers, one_pass(artifacts["sine"], whole)[4:], atol=TOLERANCE, rtol=0)
        before = await service.session("old")
        after = (await service.http.post("/sessions/old/reset")).json()
        assert (before["fingerprint"], after["fingerprint"]) == (
            artifacts["sine"].fingerprint,
            newer.fingerprint,
        )
        assert (after["position"], after["epoch"]) == (12, before["epoch"])
        got = await service.advance("old", whole, 12)
        assert_allclose(got.numbers, one_pass(newer, whole), atol=TOLERANCE, rtol=0)


async def test_a_reload_of_the_same_network_changes_nothing(start_http, folder):
    async with start_http(models=(folder,)) as service:
        await service.advance("a", [[0.1]])
        assert (await reloaded(service))["changed"] is False
        assert (await service.advance("a", [[0.2]], 1)).position == 2


async def test_a_network_that_comes_back_finds_its_sessions(start_http, artifacts, folder, newer):
    whole = series("sine", 9)
    async with start_http(models=(folder,)) as service:
        await service.advance("a", whole[:3])
        for artifact in (newer, artifacts["sine"]):
            save(artifact, folder / "sine")
            await reloaded(service)
        got = await service.advance("a", whole[3:], 3)
        assert_allclose(got.numbers, one_pass(artifacts["sine"], whole)[3:], atol=TOLERANCE, rtol=0)


async def test_a_damaged_artifact_is_refused_by_name_and_the_network_in_memory_goes_on(start_http, folder):
    async with start_http(models=(folder,)) as service:
        await service.advance("a", [[0.1]])
        (folder / "sine" / "weights.safetensors").write_bytes(b"torn")
        response = await service.http.post("/models/sine/reload")
        assert (response.status_code, response.json()["title"]) == (422, "Bad model")
        assert "sine" in response.json()["detail"]
        assert (await service.advance("a", [[0.2]], 1)).status == 200


async def test_a_model_that_is_not_there_is_404(start_http, folder):
    async with start_http(models=(folder,)) as service:
        assert (await service.http.post("/models/nobody/reload")).status_code == 404


async def test_a_state_of_an_older_network_can_be_imported_while_it_is_loaded(start_http, folder, newer):
    async with start_http(models=(folder,)) as service:
        await service.advance("a", [[0.1]])
        file = (await service.http.get("/sessions/a/state")).content
        save(newer, folder / "sine")
        await reloaded(service)
        response = await service.http.put("/sessions/b/state", content=file)
        assert (response.status_code, response.json()["position"]) == (200, 1)


async def test_with_replay_a_session_starts_warm_on_the_newer_network_from_its_last_observations(
    start_http, folder, newer
):
    whole = series("sine", 30)
    async with start_http(models=(folder,), replay_observations=8) as service:
        first = await service.advance("a", whole[:20], 0)
        await service.advance("short", whole[:3], 0)
        save(newer, folder / "sine")
        await reloaded(service)
        replay = await service.advance("a", whole[:20], 0)
        assert (replay.replayed, replay.epoch) == (True, first.epoch)
        got = await service.advance("a", whole[20:], 20)
        assert_allclose(got.numbers, one_pass(newer, whole[12:])[8:], atol=TOLERANCE, rtol=0)
        short = await service.advance("short", whole[3:5], 3)
        assert_allclose(short.numbers, one_pass(newer, whole[:5])[3:], atol=TOLERANCE, rtol=0)
        assert (await service.session("a"))["fingerprint"] == newer.fingerprint


async def test_with_replay_a_chunk_that_is_half_done_ends_on_the_network_that_began_it(
    start_http, artifacts, folder, newer
):
    """Its unfinished carry is the older network's; the session moves behind it."""
    whole = series("sine", 8040)
    async with start_http(models=(folder,), replay_observations=8) as service:
        engine = service.engine
        await service.advance("a", whole[:20], 0)
        answer = asyncio.create_task(service.advance("a", whole[20:8020], 20))
        await until(lambda: engine._backlog.slow.pinned == {"a"})
        async with held(engine) as release:
            assert engine._backlog.slow.pinned == {"a"}  # begun, and not finished
            save(newer, folder / "sine")
            reload = asyncio.create_task(reloaded(service))
            await until(lambda: bool(engine._backlog.queue))
            release.set()
            got = await answer
            assert (await reload)["changed"]
        want = one_pass(artifacts["sine"], whole[:8020])[20:]
        assert_allclose(got.numbers, want, atol=2 * TOLERANCE, rtol=0)
        got = await service.advance("a", whole[8020:], 8020)
        assert_allclose(got.numbers, one_pass(newer, whole[8012:])[8:], atol=TOLERANCE, rtol=0)


async def test_with_replay_sessions_of_a_bulk_request_start_warm_and_what_is_answered_is_kept(
    start_http, folder, newer
):
    wholes = {name: series("sine", 12, seed) for seed, name in enumerate("abc")}

    async def observed(service, rows, at):
        observations = [whole[rows].tolist() for whole in wholes.values()]
        body = {"sessions": list(wholes), "observations": observations, "at": [at] * len(wholes)}
        answer = (await service.http.post("/observations", json=body)).json()
        assert (answer["errors"], answer["positions"]) == ({}, [at + len(observations[0])] * len(wholes))
        return answer["predictions"]

    async with start_http(models=(folder,), replay_observations=8) as service:
        await observed(service, slice(6), 0)
        save(newer, folder / "sine")
        await reloaded(service)
        got = [await observed(service, slice(6, 9), 6), await observed(service, slice(9, 12), 9)]
        for i, (name, whole) in enumerate(wholes.items()):
            answer = [row for part in got for row in part[i]]
            assert_allclose(answer, one_pass(newer, whole)[6:], atol=TOLERANCE, rtol=0)
            assert (await service.session(name))["position"] == 12


async def test_replay_reaches_sessions_that_were_not_resident(start_http, folder, newer):
    wholes = {f"s{i}": series("sine", 12, i) for i in range(12)}
    small = {"resident_sessions": 4, "batch_sessions": 4, "replay_observations": 5}
    async with start_http(models=(folder,), **small) as service:
        for name, whole in wholes.items():
            await service.advance(name, whole[:9], 0)
        save(newer, folder / "sine")
        await reloaded(service)
        for name, whole in wholes.items():
            got = await service.advance(name, whole[9:], 9)
            assert_allclose(got.numbers, one_pass(newer, whole[4:])[5:], atol=TOLERANCE, rtol=0)


async def test_a_network_of_other_columns_starts_no_session_warm(start_http, artifacts, folder):
    whole = series("sine", 9)
    other = dataclasses.replace(artifacts["pair"], name="sine")
    async with start_http(models=(folder,), replay_observations=8) as service:
        await service.advance("a", whole[:4])
        save(other, folder / "sine")
        await reloaded(service)
        got = await service.advance("a", whole[4:], 4)
        assert_allclose(got.numbers, one_pass(artifacts["sine"], whole)[4:], atol=TOLERANCE, rtol=0)


async def test_a_session_keeps_its_network_through_a_restart_even_when_its_artifact_was_replaced(
    zoo_folder, clock, tmp_path, monkeypatch, artifacts, folder, newer
):
    whole = series("sine", 12)
    start = starter(AsgiRoute, "sqlite", zoo_folder, clock, tmp_path, monkeypatch)
    durable = {"models": (folder,), "store": f"sqlite:{tmp_path}/sessions.sqlite"}
    async with start(**durable) as service:
        await service.advance("a", whole[:5])
    save(newer, folder / "sine")
    async with start(**durable) as service:
        got = await service.advance("a", whole[5:], 5)
        assert_allclose(got.numbers, one_pass(artifacts["sine"], whole)[5:], atol=TOLERANCE, rtol=0)
        after = (await service.http.post("/sessions/a/reset")).json()
        assert (after["fingerprint"], after["position"]) == (newer.fingerprint, 12)


def test_the_archive_is_for_its_owner_alone(tmp_path, folder):
    settings = Settings(models=(folder,), store=f"sqlite:{tmp_path}/sessions.sqlite")
    library = ModelLibrary(settings)
    library.archive(library.load())
    archive = tmp_path / "sessions.sqlite.models"
    assert (archive.stat().st_mode & 0o077, len(list(archive.iterdir()))) == (0, 1)


async def test_an_archive_that_may_not_be_written_is_the_reason_why_nothing_is_reloaded(
    zoo_folder, clock, tmp_path, monkeypatch, folder, newer
):
    start = starter(HotRoute, "sqlite", zoo_folder, clock, tmp_path, monkeypatch)
    async with start(models=(folder,), store=f"sqlite:{tmp_path}/sessions.sqlite") as service:
        save(newer, folder / "sine")
        monkeypatch.setattr(os, "access", lambda *_: False)
        refused = await service.http.post("/models/sine/reload")
        assert (refused.status_code, refused.json()["type"]) == (500, "urn:carryover:config-error")
        assert "there is no permission to write" in refused.json()["detail"]
        logged: list[str] = []
        monkeypatch.setattr(main.log, "error", lambda text, *_: logged.append(text))
        (outcome,) = await asyncio.gather(service.server._reload(), return_exceptions=True)
        assert (outcome, logged) == (None, ["models were not reloaded: %s"])


async def test_a_damaged_archive_does_not_keep_the_server_from_starting(
    zoo_folder, clock, tmp_path, monkeypatch, folder, newer, artifacts
):
    start = starter(AsgiRoute, "sqlite", zoo_folder, clock, tmp_path, monkeypatch)
    durable = {"models": (folder,), "store": f"sqlite:{tmp_path}/sessions.sqlite"}
    async with start(**durable) as service:
        await service.advance("a", [[0.1]])
    save(newer, folder / "sine")
    archived = tmp_path / "sessions.sqlite.models" / artifacts["sine"].fingerprint
    (archived / "weights.safetensors").write_bytes(b"torn")
    save(newer, archived.with_name(f".{newer.fingerprint}.4x2k"))  # of a process that was killed
    async with start(**durable) as service:
        refused = await service.advance("a", [[0.2]], 1)
        assert (refused.status, "not loaded" in refused.problem["detail"]) == (503, True)
        assert (await service.advance("b", [[0.2]])).status == 200


async def test_a_hang_up_signal_reloads_every_model_and_a_damaged_one_changes_nothing(
    start_hot, folder, newer
):
    async with start_hot(models=(folder,)) as service:
        save(newer, folder / "sine")
        await service.server._reload()  # what SIGHUP calls
        assert (await service.http.get("/models/sine")).json()["fingerprint"] == newer.fingerprint
        (folder / "sine" / "weights.safetensors").write_bytes(b"torn")
        await service.server._reload()
        assert (await service.advance("a", [[0.1]])).status == 200


@pytest.mark.parametrize("store", ["memory"])
@pytest.mark.parametrize("how", ["reload", "signal", "load of /v2"])
async def test_of_two_reloads_at_once_the_one_that_began_last_decides(start_hot, folder, newer, how):
    newest = made("sine", hidden=16, layers=1, seed=10)
    async with start_hot(models=(folder,)) as service:
        ways = {
            "reload": lambda: reloaded(service),
            "signal": service.server._reload,
            "load of /v2": lambda: service.http.post("/v2/repository/models/sine/load"),
        }
        library = service.app.state.library
        load, is_read, release = library.load, threading.Event(), threading.Event()

        def slow() -> list[Forecaster]:
            found = load()
            is_read.set()
            release.wait(20)
            return found

        library.load = slow
        save(newer, folder / "sine")
        first = asyncio.ensure_future(ways[how]())
        await until(is_read.is_set)
        library.load = load
        save(newest, folder / "sine")
        second = asyncio.ensure_future(ways[how]())
        await until(lambda: second.done() or bool(library.turn._waiters))
        release.set()
        await asyncio.gather(first, second)
        assert (await service.http.get("/models/sine")).json()["fingerprint"] == newest.fingerprint


@pytest.mark.parametrize("store", ["memory"])
async def test_models_are_reloaded_though_the_queue_is_full(start_hot, folder, newer):
    async with start_hot(models=(folder,)) as service:
        service.engine._backlog._max_jobs = 0
        save(newer, folder / "sine")
        await service.server._reload()  # what SIGHUP calls
        shown = await service.http.get("/models/sine")
        assert shown.json()["fingerprint"] == newer.fingerprint
        assert (await service.http.post("/models/sine/reload")).status_code == 200
        assert (await service.advance("a", [[0.1]])).status == 503


async def test_a_model_added_to_a_later_folder_does_not_become_the_default(
    start_http, artifacts, folder, tmp_path
):
    trained = tmp_path / "trained"
    save(dataclasses.replace(artifacts["sine"], name="a-first-by-name"), trained / "a-first-by-name")
    async with start_http(models=(folder, trained)) as service:
        created = (await service.http.post("/sessions", json={"id": "a"})).json()
        assert created["model"] == "sine"
