"""A sequence's first and last request: the reset, the chunk and the end are one commit, or nothing."""

import asyncio

import pytest
from numpy.testing import assert_allclose

from app.jobs.jobs import Advance
from app.jobs.session_query import SessionQuery
from app.session.names import id_of
from models.artifact.files import save
from tests.helpers.faults import CURSED, held, queued, raise_on_curse
from tests.helpers.zoo import TOLERANCE, made, one_pass, series

pytestmark = pytest.mark.anyio


async def ask(service, session, rows, **flags):
    return await service.engine.ask(Advance(session, rows, **flags))


def equal(answer, wanted):
    assert_allclose(answer.answer["predictions"], wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("steps", [1, 7, 300])
async def test_a_first_chunk_resets_and_the_position_goes_on(start_http, artifacts, steps):
    whole = series("pair", steps)
    async with start_http() as service:
        await ask(service, "a", series("pair", 5, 1), model="pair")
        answer = await ask(service, "a", whole, reset=True)
        equal(answer, one_pass(artifacts["pair"], whole))
        shown = await service.session("a")
        assert (answer.position, shown["position"]) == (5 + steps, 5 + steps)
        assert shown["observations_since_reset"] == steps


@pytest.mark.parametrize("steps", [1, 7, 300])
async def test_a_last_chunk_is_answered_and_its_session_deleted(start_http, artifacts, steps):
    whole = series("pair", steps)
    async with start_http() as service:
        answer = await ask(service, "a", whole, model="pair", delete=True)
        equal(answer, one_pass(artifacts["pair"], whole))
        shown = await service.http.get("/sessions/a")
        assert (shown.status_code, shown.json()["position"]) == (410, steps)
        assert len(service.engine.residents) == 0
        again = await ask(service, "a", whole, model="pair")
        assert again.position == steps
        assert again.epoch != answer.epoch


async def test_the_forecast_of_a_first_and_last_chunk_starts_after_the_chunk(start_http):
    whole = series("sine", 6)
    async with start_http() as service:
        await ask(service, "a", series("sine", 9, 2))
        once = await ask(service, "a", whole, horizon=20, reset=True, delete=True)
        alone = await ask(service, "b", whole, horizon=20)
        assert_allclose(once.answer["forecast"], alone.answer["forecast"], atol=TOLERANCE)
        assert len(service.engine.residents) == 1


async def test_first_last_and_plain_chunks_share_a_batch_without_affecting_each_other(start_http, artifacts):
    before, after = series("sine", 8, 1), series("sine", 5, 2)
    kinds = [{}, {"reset": True}, {"delete": True}, {"reset": True, "delete": True}]
    names = [f"s{i}" for i in range(12)]
    async with start_http() as service:
        await asyncio.gather(*(ask(service, name, before) for name in names))
        async with held(service.engine) as release:
            tasks = [
                asyncio.ensure_future(ask(service, name, after, **kinds[i % 4]))
                for i, name in enumerate(names)
            ]
            await queued(service.engine, names)
            release.set()
            answers = await asyncio.gather(*tasks)
        for i, answer in enumerate(answers):
            begins = kinds[i % 4].get("reset", False)
            known = after if begins else [*before, *after]
            equal(answer, one_pass(artifacts["sine"], known)[-5:])
        page = await service.engine.list_sessions(SessionQuery(), None, 100)
        left = {id_of(name) for name, _ in page.found}
        assert left == {name for i, name in enumerate(names) if not kinds[i % 4].get("delete")}


async def test_a_chunk_without_create_makes_no_session(start_http):
    async with start_http() as service:
        with pytest.raises(Exception, match="there is no session 'a'"):
            await ask(service, "a", series("sine", 2), create=False)
        assert len(service.engine.residents) == 0


async def test_an_expired_session_starts_from_zero(start_http, artifacts, clock):
    whole = series("sine", 4)
    async with start_http(idle_ttl_seconds=10) as service:
        await ask(service, "a", series("sine", 6, 1))
        clock.wait(11)
        answer = await ask(service, "a", whole, reset=True)
        equal(answer, one_pass(artifacts["sine"], whole))
        assert answer.position == 4


@pytest.mark.parametrize("store", ["through"], indirect=True)
@pytest.mark.parametrize("flags", [{"reset": True}, {"delete": True}, {"reset": True, "delete": True}])
async def test_a_failed_commit_neither_resets_nor_advances_nor_deletes(start_http, artifacts, flags):
    whole = series("sine", 10)
    async with start_http() as service:
        await ask(service, "a", whole[:4])
        service.engine.residents.store.full = True
        with pytest.raises(Exception, match="no space left"):
            await ask(service, "a", whole[4:], **flags)
        service.engine.residents.store.full = False
        assert (await service.session("a"))["position"] == 4
        answer = await ask(service, "a", whole[4:])
        equal(answer, one_pass(artifacts["sine"], whole)[4:])


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_an_ended_session_is_deleted_from_the_file_too(start_http):
    async with start_http() as service:
        await ask(service, "a", series("sine", 3))
        await ask(service, "a", series("sine", 3), delete=True)
        await ask(service, "b", series("sine", 3), delete=True)
    async with start_http() as service:
        for name, position in (("a", 6), ("b", 3)):
            shown = await service.http.get(f"/sessions/{name}")
            assert (shown.status_code, shown.json()["position"]) == (410, position)
        assert len(service.engine.residents) == 0


class TestNewerNetwork:
    @pytest.fixture
    def folder(self, artifacts, tmp_path):
        save(artifacts["sine"], tmp_path / "zoo" / "sine")
        return tmp_path / "zoo"

    @pytest.fixture
    def newer(self):
        return made("sine", hidden=32, layers=2, seed=9)

    @pytest.mark.parametrize("steps", [3, 300])
    async def test_a_first_chunk_moves_its_session_to_it(self, start_http, folder, newer, steps):
        whole = series("sine", steps)
        async with start_http(models=(folder,)) as service:
            first = await ask(service, "a", series("sine", 5, 1))
            save(newer, folder / "sine")
            await service.http.post("/models/sine/reload")
            answer = await ask(service, "a", whole, reset=True)
            equal(answer, one_pass(newer, whole))
            assert (answer.position, answer.epoch) == (5 + steps, first.epoch)
            assert (await service.session("a"))["fingerprint"] == newer.fingerprint
            assert len(service.engine.residents) == 1

    async def test_a_session_whose_chunk_fails_stays_behind(self, start_http, artifacts, folder, newer):
        whole = series("sine", 9)
        async with start_http(models=(folder,)) as service:
            await ask(service, "a", whole[:5])
            save(newer, folder / "sine")
            await service.http.post("/models/sine/reload")
            raise_on_curse(service.engine.residents.models.current["sine"].forecaster)
            cursed = whole[5:].copy()
            cursed[1] = CURSED
            with pytest.raises(Exception, match="cursed"):
                await ask(service, "a", cursed, reset=True)
            answer = await ask(service, "a", whole[5:])
            equal(answer, one_pass(artifacts["sine"], whole)[5:])
            assert (await service.session("a"))["fingerprint"] == artifacts["sine"].fingerprint

    async def test_a_session_that_is_out_of_step_stays_behind(self, start_http, artifacts, folder, newer):
        whole = series("sine", 9)
        async with start_http(models=(folder,)) as service:
            await ask(service, "a", whole[:5])
            save(newer, folder / "sine")
            await service.http.post("/models/sine/reload")
            with pytest.raises(Exception, match="is at 5, the chunk starts at 3"):
                await ask(service, "a", whole[5:], at=3, reset=True)
            equal(await ask(service, "a", whole[5:]), one_pass(artifacts["sine"], whole)[5:])
