"""Sockets keep the promises of HTTP, with many messages in flight."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import websockets
from numpy.testing import assert_allclose

from app.codec.frames import HEADER
from tests.helpers.faults import held, queued, until
from tests.helpers.zoo import TOLERANCE, one_pass, series

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def stream(service: Any, session: str | None = "s") -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    """A socket, and the first message that the server sent on it."""
    path = "/stream" if session is None else f"/sessions/{session}/stream"
    async with websockets.connect(f"ws://127.0.0.1:{service.port}{path}") as socket:
        yield socket, json.loads(await answer(socket))


async def answer(socket: Any) -> Any:
    async with asyncio.timeout(20):
        return await socket.recv()


async def receive_json(socket: Any) -> dict[str, Any]:
    replies: dict[str, Any] = json.loads(await answer(socket))
    return replies


def chunk(rows: Any, **more: Any) -> str:
    return json.dumps({"observations": np.asarray(rows).tolist()} | more)


def binary(rows: Any, session: str = "", at: int = -1, horizon: int = 0, epoch: int = 0) -> bytes:
    rows = np.asarray(rows, "<f4")
    name = session.encode()
    head = HEADER.pack(len(name), 0, rows.shape[1], horizon, at, epoch)
    return head + name + b"\0" * (-len(name) % 4) + rows.tobytes()


def unpack(data: bytes) -> tuple[str, bool, int, np.ndarray, np.ndarray]:
    """Session, replayed, position, predictions and forecast of a binary answer."""
    length, replayed, outputs, steps, position, _ = HEADER.unpack_from(data)
    name = data[HEADER.size : HEADER.size + length].decode()
    numbers = np.frombuffer(data, "<f4", offset=HEADER.size + -(-length // 4) * 4).reshape(-1, outputs)
    return name, bool(replayed), position, numbers[:steps], numbers[steps:]


@pytest.mark.parametrize("form", ["text", "binary"])
@pytest.mark.parametrize("model", ["sine", "pair"])
async def test_a_stream_with_many_messages_in_flight_equals_one_pass(start_hot, artifacts, form, model):
    whole = series(model, 60)
    sizes = [1, 2, 7, 1, 1, 18, 4, 26]
    async with start_hot() as service:
        await service.http.post("/sessions", json={"id": "s", "model": model})
        async with stream(service) as (socket, _):
            at = 0
            for size in sizes:
                rows = whole[at : at + size]
                await socket.send(chunk(rows, at=at) if form == "text" else binary(rows, at=at))
                at += size
            answers = [await answer(socket) for _ in sizes]
    if form == "text":
        replies = np.concatenate([json.loads(reply)["predictions"] for reply in answers])
    else:
        replies = np.concatenate([unpack(reply)[3] for reply in answers])
    assert_allclose(replies, one_pass(artifacts[model], whole), atol=TOLERANCE, rtol=0)


async def test_the_first_message_says_where_the_session_is_so_that_a_client_continues_there(start_hot):
    async with start_hot() as service:
        async with stream(service) as (socket, hello):
            assert (hello["session"], hello["position"]) == ("s", None)
            await socket.send(chunk([[1.0], [2.0]], at=0))
            first = await receive_json(socket)
        async with stream(service) as (socket, hello):
            assert (hello["position"], hello["epoch"]) == (2, first["epoch"])
            await socket.send(chunk([[3.0]], at=2, epoch=hello["epoch"]))
            assert (await receive_json(socket))["position"] == 3


async def test_after_a_broken_socket_every_chunk_that_was_in_flight_is_replayed_and_none_applied_twice(
    start_hot, artifacts
):
    whole = series("sine", 8)
    async with start_hot() as service:
        async with stream(service) as (socket, _):
            for at in range(6):
                await socket.send(chunk(whole[at : at + 1], at=at))
            await until(lambda: service.engine.residents.find("s") is not None)
            socket.transport.abort()
        async with stream(service) as (socket, _):
            for at in range(8):
                await socket.send(chunk(whole[at : at + 1], at=at))
            replies = [await receive_json(socket) for _ in range(8)]
    assert [reply["position"] for reply in replies] == list(range(1, 9))
    predictions = np.concatenate([reply["predictions"] for reply in replies])
    assert_allclose(predictions, one_pass(artifacts["sine"], whole), atol=TOLERANCE, rtol=0)


async def test_a_replay_says_so_and_a_chunk_out_of_step_is_a_problem(start_hot):
    async with start_hot() as service, stream(service) as (socket, _):
        for message in (
            chunk([[1.0]], at=0),
            chunk([[1.0]], at=0),
            chunk([[2.0]], at=0),
            chunk([[2.0]], at=9),
        ):
            await socket.send(message)
        replies = [await receive_json(socket) for _ in range(4)]
        assert [reply.get("replayed") for reply in replies] == [False, True, None, None]
        assert [reply.get("status") for reply in replies] == [None, None, 409, 409]
        assert all(reply["position"] == 1 for reply in replies)


async def test_answers_and_refusals_of_a_session_keep_the_order_of_its_messages(start_hot):
    async with start_hot() as service, stream(service) as (socket, _):
        messages = [
            chunk([[1.0]], tag=0),
            '{"observations": [NaN]}',
            "{",
            chunk([[1.0]], tag=3),
            b"short",
            chunk([], tag=5),
            chunk([[1.0, 2.0]], tag=6),
            chunk([[1.0]], tag=7),
        ]
        for message in messages:
            await socket.send(message)
        replies = [await receive_json(socket) for _ in messages]
        assert [reply.get("status", 200) for reply in replies] == [200, 422, 400, 200, 400, 422, 422, 200]
        assert [reply.get("tag") for reply in replies] == [0, None, None, 3, None, None, 6, 7]
        assert replies[-1]["position"] == 3


async def test_a_socket_carries_many_sessions_and_keeps_the_order_of_each(start_hot, artifacts):
    wholes = {f"s{i}": series("sine", 12, i) for i in range(9)}
    async with start_hot() as service, stream(service, None) as (socket, hello):
        settings = service.engine.settings
        assert hello == {
            "in_flight": settings.socket_messages,
            "recent_chunks": settings.recent_chunks,
            "recent_bytes": settings.recent_bytes,
        }
        for at in range(0, 12, 3):
            for number, (name, whole) in enumerate(wholes.items()):
                rows = whole[at : at + 3]
                send = chunk(rows, session=name, at=at) if number % 2 else binary(rows, name, at)
                await socket.send(send)
        replies: dict[str, list[Any]] = {name: [] for name in wholes}
        for _ in range(4 * len(wholes)):
            reply = await answer(socket)
            if isinstance(reply, bytes):
                name, _, _, predictions, _ = unpack(reply)
                replies[name].append(predictions)
            else:
                read = json.loads(reply)
                replies[read["session"]].append(read["predictions"])
    for name, whole in wholes.items():
        assert_allclose(
            np.concatenate(replies[name]), one_pass(artifacts["sine"], whole), atol=TOLERANCE, rtol=0
        )


async def test_a_bad_neighbour_on_the_same_socket_fails_alone(start_hot, artifacts):
    whole = series("sine", 3)
    async with start_hot() as service, stream(service, None) as (socket, _):
        await socket.send(chunk(whole[:2], session="good"))
        await socket.send('{"session": "bad", "observations": [[1e39]]}')
        await socket.send(chunk([[1.0]], session="bad id!"))
        await socket.send(json.dumps({"observations": [[1.0]]}))
        await socket.send(chunk(whole[2:], session="good", tag="end"))
        replies = [await receive_json(socket) for _ in range(5)]
    statuses = sorted(reply["status"] for reply in replies if "status" in reply)
    assert statuses == [422, 422, 422]
    last = next(reply for reply in replies if reply.get("tag") == "end")
    assert_allclose(last["predictions"], one_pass(artifacts["sine"], whole)[2:], atol=TOLERANCE, rtol=0)


async def test_a_horizon_adds_a_forecast_in_both_forms(start_hot):
    async with start_hot() as service, stream(service) as (socket, _):
        await socket.send(chunk([[0.5]], horizon=4))
        await socket.send(binary([[0.5]], horizon=4))
        first = await receive_json(socket)
        _, _, _, predictions, forecast = unpack(await answer(socket))
        assert (len(first["forecast"]), len(predictions), len(forecast)) == (4, 1, 4)
        assert forecast[0] == predictions[-1]


async def test_a_reset_takes_its_place_among_the_chunks(start_hot, artifacts):
    whole = series("sine", 4)
    async with start_hot() as service, stream(service) as (socket, _):
        await socket.send(chunk(whole))
        await socket.send(json.dumps({"reset": True, "at": 4, "tag": "r"}))
        await socket.send(chunk(whole, at=4))
        before, reset, after = [await receive_json(socket) for _ in range(3)]
        assert (reset["position"], reset["observations_since_reset"], reset["tag"]) == (4, 0, "r")
        assert after["position"] == 8
        assert_allclose(after["predictions"], before["predictions"], atol=TOLERANCE, rtol=0)


async def test_a_message_in_fragments_is_put_together(start_hot):
    async with start_hot() as service, stream(service) as (socket, _):
        whole = chunk([[0.25], [0.5]])
        await socket.send([whole[:5], whole[5:20], whole[20:]])
        assert (await receive_json(socket))["position"] == 2


async def test_a_socket_is_read_no_further_than_its_bound_until_answers_leave(start_hot):
    async with start_hot(socket_messages=4) as service, stream(service) as (socket, hello):
        assert hello["in_flight"] == 4
        async with held(service.engine) as released:
            for at in range(4):
                await socket.send(chunk([[0.1 * at]], at=at))
            await queued(service.engine, ["s"])
            (server_socket,) = sockets(service)
            await until(lambda: server_socket.waiting >= 4)
            assert not server_socket._transport.underlying_transport.is_reading()
            released.set()
        for at in range(4, 40):
            await socket.send(chunk([[0.1 * at]], at=at))
        assert [(await receive_json(socket))["position"] for _ in range(40)] == list(range(1, 41))


async def test_a_client_that_does_not_read_is_not_read_either(start_hot):
    async with start_hot() as service, stream(service) as (_socket, _):
        (server_socket,) = sockets(service)
        transport = server_socket._transport.underlying_transport
        server_socket.pause_writing()
        assert not transport.is_reading()
        server_socket.resume_writing()
        assert transport.is_reading()


async def test_shutdown_sends_the_answers_that_are_owed_and_closes_with_1001(start_hot):
    async with start_hot() as service, stream(service) as (socket, _):
        (server_socket,) = sockets(service)
        async with held(service.engine) as released:
            await socket.send(chunk([[1.0]], at=0))
            await until(lambda: server_socket.waiting == 1)
            server_socket.shutdown()
            released.set()
        assert (await receive_json(socket))["position"] == 1
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await answer(socket)
        assert closed.value.rcvd.code == 1001
        assert json.loads(closed.value.rcvd.reason)["position"] == 1


async def test_a_client_that_vanishes_disturbs_nobody(start_hot):
    async with start_hot() as service, stream(service, "stays") as (socket, _):
        async with held(service.engine) as released:
            async with stream(service, None) as (leaver, _):
                await leaver.send(chunk([[1.0]], session="left", at=0))
                await until(lambda: any(reply.waiting for reply in sockets(service)))
                leaver.transport.abort()
            await socket.send(chunk([[1.0]], at=0))
            released.set()
        assert (await receive_json(socket))["position"] == 1
        assert (await service.session("left"))["position"] == 1


@pytest.mark.parametrize("path", ["/nowhere", "/sessions/s/observations", "/sessions//stream"])
async def test_a_path_without_a_socket_is_refused_as_a_problem(start_hot, path):
    async with start_hot() as service:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"ws://127.0.0.1:{service.port}{path}")
        response = refused.value.response
        assert (response.status_code, json.loads(response.body)["status"]) == (404, 404)


async def test_a_message_over_the_body_limit_closes_the_socket_and_moves_nothing(start_hot):
    async with start_hot(body_bytes=2048) as service, stream(service) as (socket, _):
        await socket.send(chunk([[1.0]], at=0))
        await receive_json(socket)
        await socket.send(b"\0" * 5000)
        with pytest.raises(websockets.ConnectionClosed):
            await answer(socket)
        assert (await service.session("s"))["position"] == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEADER.pack(9, 0, 1, 0, -1, 0),
        HEADER.pack(0, 0, 0, 0, -1, 0) + bytes(8),
        HEADER.pack(0, 0, 2, 0, -1, 0) + bytes(4),
        HEADER.pack(0, 0, 1, 0, -1, 0),
        HEADER.pack(0, 0, 1, 2**32 - 1, -1, 0) + bytes(4),
        HEADER.pack(0, 0, 1, 0, -7, 0) + bytes(4),
        HEADER.pack(0, 0, 1, 0, -1, 0) + struct.pack("<f", float("nan")),
        HEADER.pack(0, 0, 1, 0, -1, 0) + struct.pack("<f", float("inf")),
    ],
)
async def test_a_binary_message_that_does_not_add_up_is_refused_and_moves_nothing(start_hot, data):
    async with start_hot() as service, stream(service) as (socket, _):
        await socket.send(data)
        assert (await receive_json(socket))["status"] in (400, 422)
        await socket.send(binary([[1.0]], at=0))
        assert unpack(await answer(socket))[2] == 1


def sockets(service: Any) -> list[Any]:
    return [reply for reply in service.server.server_state.connections if hasattr(reply, "waiting")]
