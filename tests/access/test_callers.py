import asyncio
import typing
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from app import main
from app.access.keys import generate_key
from app.errors import Forbidden, OverLimit, Overloaded
from app.jobs import jobs
from app.jobs.jobs import Advance, AdvanceMany, Expire
from app.jobs.session_list import SessionList
from app.jobs.text import TextRequest
from app.session import names
from tests.helpers.faults import until
from tests.helpers.locked import Keys

pytestmark = pytest.mark.anyio

ROWS = [[0.1], [0.2]]


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path)


@pytest.fixture
def store(request):
    return getattr(request, "param", "memory")


def example(kind):
    """A job of this kind; of the sessions `a`, and `b` where it takes two."""
    observations = np.zeros((1, 1), np.float32)
    special = {
        jobs.Advance: lambda: Advance("a", observations),
        jobs.AdvanceMany: lambda: AdvanceMany(SessionList("ab"), observations.repeat(2, 0), np.array([1, 1])),
        jobs.Forecast: lambda: jobs.Forecast("a", 3),
        jobs.Fork: lambda: jobs.Fork("a", "b"),
        jobs.Import: lambda: jobs.Import("a", None),
        jobs.Refuse: lambda: jobs.Refuse("a", Forbidden("no")),
        jobs.Write: lambda: jobs.Write("a", TextRequest("x")),
        jobs.Expire: lambda: Expire(["a"]),
    }
    return special[kind]() if kind in special else kind("a")


SESSIONLESS = [kind for kind in typing.get_args(jobs.Job) if not example(kind).sessions]
OF_SESSIONS = [kind for kind in typing.get_args(jobs.Job) if kind not in [*SESSIONLESS, Expire]]


@pytest.mark.parametrize("kind", OF_SESSIONS)
async def test_every_job_reaches_the_engine_under_its_tenants_names(start_http, keys, kind, monkeypatch):
    keys.add("acme")
    async with start_http(api_keys_file=keys.path) as service:
        seen = []
        monkeypatch.setattr(service.engine, "submit", seen.append)
        authenticator = service.app.state.authenticator
        authenticator.authenticate_token(keys.token["acme"].encode()).submit(example(kind))
        assert [*seen[0].sessions] == [f"acme/{name}" for name in example(kind).sessions]


async def test_a_job_without_a_session_needs_an_admin_and_no_caller_may_submit_an_expiry(start_http, keys):
    keys.add("acme")
    keys.add("boss", "admin")
    async with start_http(api_keys_file=keys.path) as service:
        authenticator = service.app.state.authenticator
        for kind in SESSIONLESS:
            with pytest.raises(Forbidden):
                authenticator.authenticate_token(keys.token["acme"].encode()).submit(example(kind))
        with pytest.raises(AttributeError):
            authenticator.authenticate_token(keys.token["boss"].encode()).submit(Expire(["acme/a"]))


def test_no_name_of_a_client_is_another_tenants():
    for session in ("a", "acme.a", "..", "acme:a"):
        assert names.id_of(names.prefix("b") + session) == session
        assert names.tenant_of(names.prefix("b") + session) == "b"
        assert names.tenant_of(session) == ""


async def test_each_quota_of_a_key_is_kept_by_name_and_others_are_not_touched(start_http, keys):
    keys.add("small", sessions=2, observations_per_second=50, chunk_observations=20, body_bytes=2000)
    keys.add("large")

    async def advance(name, session, steps):
        body = {"observations": [[0.1]] * steps}
        return await service.http.post(
            f"/sessions/{session}/observations", json=body, headers=keys.headers(name)
        )

    async with start_http(api_keys_file=keys.path) as service:
        assert (await advance("small", "a", 20)).status_code == 200
        long = await advance("small", "a", 21)
        assert (long.status_code, long.json()["quota"]) == (413, "chunk_observations")
        assert (await advance("small", "a", 500)).status_code == 413  # by its bytes
        assert (await advance("small", "b", 20)).status_code == 200
        full = await advance("small", "c", 1)
        assert (full.status_code, full.json()["quota"], full.json()["limit"]) == (429, "sessions", 2)
        assert full.headers["retry-after"] == "60"
        assert (await advance("small", "a", 20)).status_code == 200
        fast = await advance("small", "a", 1)
        assert (fast.status_code, fast.json()["quota"]) == (429, "observations_per_second")
        assert int(fast.headers["retry-after"]) >= 1
        assert fast.json()["type"] == "urn:carryover:over-limit"
        assert (await advance("large", "c", 400)).status_code == 200


async def test_a_tenant_has_room_again_when_a_session_of_its_goes(start_http, keys):
    keys.add("small", sessions=2)
    async with start_http(api_keys_file=keys.path) as service:
        http, headers = service.http, keys.headers("small")
        for name in ("a", "b"):
            assert (await http.post("/sessions", json={"id": name}, headers=headers)).status_code == 201
        assert (await http.post("/sessions/a/fork", json={"id": "c"}, headers=headers)).status_code == 429
        state = (await http.get("/sessions/a/state", headers=headers)).content
        assert (await http.put("/sessions/c/state", content=state, headers=headers)).status_code == 429
        assert (await http.put("/sessions/b/state", content=state, headers=headers)).status_code == 200
        assert (await http.delete("/sessions/a", headers=headers)).status_code == 204
        assert (await http.post("/sessions", json={"id": "c"}, headers=headers)).status_code == 201
        assert service.engine.residents.counts.per_tenant["small"] == 2


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_sessions_that_a_store_kept_count_after_a_restart(start_http, keys):
    keys.add("small", sessions=2)
    for names_ in (("a", "b"), ()):
        async with start_http(api_keys_file=keys.path) as service:
            for name in names_:
                await service.http.post("/sessions", json={"id": name}, headers=keys.headers("small"))
            refused = await service.http.post("/sessions", json={"id": "c"}, headers=keys.headers("small"))
            assert refused.status_code == 429


async def test_a_keys_jobs_in_flight_are_bounded_and_count_down_with_their_answers(start_http, keys):
    keys.add("small", in_flight=2)
    async with start_http(api_keys_file=keys.path) as service:
        caller = service.app.state.authenticator.authenticate_token(keys.token["small"].encode())
        answers = []

        def chunk(name):
            return Advance(name, np.zeros((1, 1), np.float32), reply=answers.append)

        caller.submit(chunk("a"))
        caller.submit(chunk("b"))
        with pytest.raises(OverLimit) as refused:
            caller.submit(chunk("c"))
        assert refused.value.extra["quota"] == "in_flight"
        await until(lambda: len(answers) == 2)
        assert caller.usage.in_flight == 0
        caller.submit(chunk("c"))
        await until(lambda: len(answers) == 3)


async def test_a_text_that_was_begun_goes_on_though_the_key_has_as_much_in_flight_as_it_may(start_http, keys):
    keys.add("small", in_flight=1)
    async with start_http(api_keys_file=keys.path) as service:
        caller = service.app.state.authenticator.authenticate_token(keys.token["small"].encode())
        answers = []
        caller.submit(Advance("a", np.zeros((1, 1), np.float32), reply=answers.append))
        text = jobs.Write("b", TextRequest("x"), reply=answers.append)
        with pytest.raises(OverLimit):
            caller.submit(replace(text))
        caller.submit(replace(text, goes_on=True))
        await until(lambda: len(answers) == 2)


async def test_the_server_as_a_whole_takes_so_many_observations_a_second(start_http):
    async with start_http(observations_per_second=10) as service:
        assert (await service.advance("a", [[0.1]] * 20)).status == 200
        refused = await service.advance("b", [[0.1]])
        assert (refused.status, refused.problem["quota"]) == (503, "observations_per_second")


@pytest.mark.parametrize("full", ["the rate of the server", "the queue"])
async def test_what_is_refused_takes_nothing_from_any_rate(start_http, keys, full):
    keys.add("slow", observations_per_second=10)
    async with start_http(api_keys_file=keys.path, observations_per_second=100) as service:
        authenticator = service.app.state.authenticator
        usage = (slow := authenticator.authenticate_token(keys.token["slow"].encode())).usage
        if full == "the queue":
            service.engine._backlog._max_jobs = 0
        else:
            assert not authenticator.server_bucket.take(200)
        with pytest.raises(Overloaded):
            slow.submit(Advance("a", np.zeros((50, 1), np.float32)))
        assert usage.bucket.holds(9)
        assert authenticator.server_bucket.holds(90) == (full == "the queue")
        assert usage.bucket.take_granted() == 0


async def test_keys_that_come_and_go_are_noticed_without_a_restart(start_http, keys):
    keys.add("first")
    async with start_http(api_keys_file=keys.path) as service:
        authenticator = service.app.state.authenticator
        keys.add("second")
        authenticator.refresh()
        assert (await service.http.get("/sessions", headers=keys.headers("second"))).status_code == 200
        keys.remove("first")
        authenticator.refresh()
        assert (await service.http.get("/sessions", headers=keys.headers("first"))).status_code == 401
        keys.path.write_text("broken")
        authenticator.refresh()
        assert (await service.http.get("/sessions", headers=keys.headers("second"))).status_code == 200


async def test_a_server_notices_by_itself_that_a_key_was_removed(start_hot, keys, monkeypatch):
    monkeypatch.setattr(main, "KEYS_SECONDS", 0.02)
    keys.add("leaver")
    async with start_hot(api_keys_file=keys.path) as service:
        headers = keys.headers("leaver")
        assert (await service.http.get("/sessions", headers=headers)).status_code == 200
        keys.remove("leaver")
        async with asyncio.timeout(60):
            while (await service.http.get("/sessions", headers=headers)).status_code != 401:
                pass


async def test_no_key_and_no_header_names_the_empty_tenant_which_would_hold_everybodys_sessions(
    start_http, keys
):
    keys.add("acme")
    keys.add("boss", "admin")
    async with start_http(api_keys_file=keys.path) as service:
        body = {"observations": [[0.1]]}
        made = await service.http.post("/sessions/a/observations", json=body, headers=keys.headers("acme"))
        assert made.status_code == 200
        for path in ("/sessions", "/sessions?detail=true", "/sessions/a", "/sessions/acme%2Fa"):
            headers = keys.headers("boss", **{"carryover-tenant": ""})
            assert (await service.http.get(path, headers=headers)).status_code == 403
        key, token = generate_key("old", "plant")
        planted = structs.replace(key, tenant="")
        service.app.state.authenticator.key_ring._keys[bytes.fromhex(key.sha256)] = planted
        headers = {"authorization": f"Bearer {token}"}
        assert (await service.http.get("/sessions?detail=true", headers=headers)).status_code == 401
