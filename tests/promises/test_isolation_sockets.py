"""A second tenant's key against a first tenant's session, by every message that a socket takes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.codec.frames import HEADER, TextMessage
from tests.helpers.faults import until
from tests.helpers.locked import Keys, alike
from tests.promises.test_isolation import STEPS, THEIRS, UNKNOWN_EPOCH, looked_at, their_session

pytestmark = pytest.mark.anyio


def text(**fields: Any):
    return lambda session: json.dumps(fields | {"session": session})


def packed(at: int):
    def message(session: str) -> bytes:
        name = session.encode()
        head = HEADER.pack(len(name), 0, 1, 0, at, 0)
        return head + name + b"\0" * (-len(name) % 4) + np.zeros(2, "<f4").tobytes()

    return message


# To add a kind of message: one that would show or move the session, if it were the caller's.
MESSAGES = {
    "chunk": text(observations=[[0.1]]),
    "chunk in step": text(observations=[[0.1]], at=STEPS),
    "chunk with a horizon": text(observations=[[0.1]], at=STEPS, horizon=3, tag=1),
    "chunk of another epoch": text(observations=[[0.1]], at=3, epoch="00000000000000ff"),
    "chunk of a model": text(observations=[[0.1]], model="weather"),
    "chunk of named inputs": text(inputs={"value": [0.1]}),
    "reset": text(reset=True),
    "reset in step": text(reset=True, at=STEPS),
    "binary": packed(-1),
    "binary in step": packed(STEPS),
}


@pytest.fixture
def store():
    return "memory"


@pytest.fixture
def keys(tmp_path):
    keys = Keys(tmp_path)
    keys.add("theirs")
    keys.add("ours", sockets=4)
    keys.add("reads", "read", "ours")
    return keys


def opened(service, path: str, headers: dict[str, str] | None = None, **more: Any):
    return connect(f"ws://127.0.0.1:{service.port}{path}", additional_headers=headers or {}, **more)


def read(message: Any, session: str) -> Any:
    if isinstance(message, str):
        return alike(json.loads(message), session)
    return message[1:16], message[-8:]  # all but the epoch and the name


def test_every_field_of_a_message_is_in_an_example_here():
    used = {
        field
        for make in MESSAGES.values()
        if isinstance(made := make("s"), str)
        for field in json.loads(made)
    }
    unseen = {
        "timestamps",
        "level",
        "levels",
        "score",
        "skip",
        "future",
        "labels",
        "rate",
    }  # of what is answered, not of whose it is
    assert set(TextMessage.__struct_fields__) - used <= unseen


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("named", [True, False], ids=["on /stream", "on the session's own"])
async def test_a_session_of_another_tenant_is_answered_like_an_unknown_session(start_hot, keys, kind, named):
    async with start_hot(api_keys_file=keys.path) as service:
        before = await their_session(service.http, keys)
        answers = []
        for session in (UNKNOWN_EPOCH, THEIRS):
            path = "/stream" if named else f"/sessions/{session}/stream"
            async with opened(service, path, keys.headers("ours")) as socket:
                await socket.send(MESSAGES[kind](session))
                answers.append([read(await socket.recv(), session) for _ in range(2)])
        assert answers[0] == answers[1]
        assert await looked_at(service.http, keys) == before


async def test_watching_a_session_of_another_tenant_is_like_watching_an_unknown_session(start_hot, keys):
    async with start_hot(api_keys_file=keys.path) as service:
        before = await their_session(service.http, keys)
        answers = []
        for session in (UNKNOWN_EPOCH, THEIRS):
            async with opened(service, f"/sessions/{session}/watch", keys.headers("reads")) as socket:
                answers.append(read(await socket.recv(), session))
                body = {"observations": [[0.1]], "at": before[0]["position"]}
                await service.http.post(
                    f"/sessions/{THEIRS}/observations", json=body, headers=keys.headers("theirs")
                )
                before = await looked_at(service.http, keys)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(socket.recv(), 0.2)
        assert answers[0] == answers[1]


async def refused(service, path: str, headers: dict[str, str], **more: Any) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as error:
        async with opened(service, path, headers, **more):
            pass
    return error.value


async def test_a_socket_without_a_good_key_is_not_opened(start_hot, keys):
    async with start_hot(api_keys_file=keys.path) as service:
        for headers in ({}, {"authorization": "Bearer no"}, {"authorization": "Basic x"}):
            for path in ("/stream", "/sessions/a/stream", "/sessions/a/watch"):
                error = await refused(service, path, headers)
                assert error.response.status_code == 401
                assert json.loads(error.response.body)["type"] == "urn:carryover:unauthorized"
        error = await refused(service, "/stream", {}, subprotocols=["carryover", "carryover.bearer.no"])
        assert error.response.status_code == 401
        assert (await refused(service, "/stream", keys.headers("reads"))).response.status_code == 403


async def test_a_browsers_socket_sends_its_key_as_a_protocol_and_is_not_sent_it_back(start_hot, keys):
    async with start_hot(api_keys_file=keys.path) as service:
        offered = ["carryover", f"carryover.bearer.{keys.token['ours']}"]
        origin = f"http://127.0.0.1:{service.port}"
        async with opened(service, "/stream", subprotocols=offered, origin=origin) as socket:
            assert socket.subprotocol == "carryover"
            assert keys.token["ours"] not in str(socket.response.headers)
            await socket.send(json.dumps({"session": "a", "observations": [[0.1]]}))
            assert "in_flight" in await socket.recv()
            assert json.loads(await socket.recv())["position"] == 1


async def test_a_browsers_socket_names_a_tenant_as_a_protocol_which_an_admin_alone_may(start_hot, keys):
    keys.add("staff", "admin")
    async with start_hot(api_keys_file=keys.path) as service:
        offer = lambda name: ["carryover", f"carryover.bearer.{keys.token[name]}", "carryover.tenant.theirs"]  # noqa: E731
        async with opened(service, "/stream", subprotocols=offer("staff")) as socket:
            assert socket.subprotocol == "carryover"
            await socket.send(json.dumps({"session": "a", "observations": [[0.1]]}))
            assert "in_flight" in await socket.recv()
            assert json.loads(await socket.recv())["position"] == 1
        answer = await service.http.get("/sessions/a", headers=keys.headers("theirs"))
        assert answer.json()["position"] == 1
        error = await refused(service, "/stream", {}, subprotocols=offer("ours"))
        assert error.response.status_code == 403


async def test_a_page_of_another_origin_opens_no_socket(start_hot):
    async with start_hot(allowed_origins=("https://plant.example",)) as service:
        for origin in ("https://evil.example", "null", "https://plant.example.evil.example"):
            assert (await refused(service, "/stream", {}, origin=origin)).response.status_code == 403
        async with opened(service, "/stream", origin="https://plant.example") as socket:
            assert "in_flight" in await socket.recv()


async def test_a_keys_sockets_are_counted_and_close_with_the_key(start_hot, keys):
    async with start_hot(api_keys_file=keys.path) as service:
        sockets = [await opened(service, "/stream", keys.headers("ours")) for _ in range(4)]
        error = await refused(service, "/stream", keys.headers("ours"))
        assert error.response.status_code == 429
        assert json.loads(error.response.body)["quota"] == "sockets"
        assert int(error.response.headers["retry-after"]) >= 1
        authenticator = service.app.state.authenticator
        await sockets.pop().close()
        await until(lambda: len(authenticator.sockets) == 3)
        sockets.append(await opened(service, "/stream", keys.headers("ours")))
        keys.remove("ours")
        authenticator.refresh()
        for socket in sockets:
            await socket.wait_closed()
            assert socket.close_code == 1008
        await until(lambda: not authenticator.sockets)


async def test_the_sockets_of_a_server_are_bounded_over_all_clients(start_hot):
    async with start_hot(sockets=2) as service:
        sockets = [await opened(service, "/stream") for _ in range(2)]
        error = await refused(service, "/stream", {})
        assert (error.response.status_code, json.loads(error.response.body)["quota"]) == (503, "sockets")
        for socket in sockets:
            await socket.close()


async def test_a_socket_over_its_keys_quota_is_told_so_and_heard_again_later(start_hot, keys):
    keys.add("slow", observations_per_second=40)
    async with (
        start_hot(api_keys_file=keys.path) as service,
        opened(service, "/sessions/a/stream", keys.headers("slow")) as socket,
    ):
        await socket.recv()
        for at in (0, 60):
            await socket.send(json.dumps({"session": "a", "observations": [[0.1]] * 60, "at": at}))
        assert json.loads(await socket.recv())["position"] == 60
        over = json.loads(await socket.recv())
        assert (over["type"], over["quota"]) == ("urn:carryover:over-limit", "observations_per_second")
        async with asyncio.timeout(60):
            while over.get("quota") == "observations_per_second":  # it is read later, and may still be over
                await socket.send(json.dumps({"session": "a", "observations": [[0.1]], "at": 60}))
                over = json.loads(await socket.recv())
        assert over["position"] == 61


async def test_the_quota_of_a_hot_connection_is_told_and_others_go_on(start_hot, keys):
    keys.add("slow", observations_per_second=40)
    body = {"observations": [[0.1]] * 60}
    async with (
        start_hot(api_keys_file=keys.path) as service,
        httpx.AsyncClient(base_url=service.http.base_url, headers=keys.headers("slow"), timeout=30) as slow,
    ):
        assert (await slow.post("/sessions/a/observations", json=body)).status_code == 200
        over = await slow.post("/sessions/a/observations", json=body)
        assert (over.status_code, over.json()["quota"]) == (429, "observations_per_second")
        assert int(over.headers["retry-after"]) >= 1
        for _ in range(20):
            fine = await service.http.post(
                "/sessions/a/observations", json=body, headers=keys.headers("ours")
            )
            assert fine.status_code == 200
