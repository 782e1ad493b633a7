"""Messages of all sockets go together, and each is still answered as if it were alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from app.codec import frames
from app.codec.frames import HEADER
from app.engine.backlog import Backlog
from app.jobs.jobs import AdvanceMany
from app.protocols import message_inbox
from app.protocols.reading import PARSE_BYTES
from tests.helpers.faults import until
from tests.helpers.locked import Keys
from tests.helpers.raw import RawConnection, connect, frame, handshake, read_frame
from tests.helpers.zoo import TOLERANCE, one_pass, series

pytestmark = pytest.mark.anyio

TEXT, BINARY, CLOSE = 1, 2, 8


@asynccontextmanager
async def opened(
    service: Any, path: str = "/sessions/s/stream", key: str | None = None
) -> AsyncIterator[RawConnection]:
    """A socket whose first message was read."""
    headers = () if key is None else (f"authorization: Bearer {key}",)
    async with connect(service.port) as connection:
        await connection.send(handshake(path, *headers))
        assert (await connection.answer()).status == 101
        await read_frame(connection)
        yield connection


def text(**fields: Any) -> bytes:
    return frame(TEXT, json.dumps(fields).encode())


def chunk(*rows: float, **fields: Any) -> bytes:
    return text(observations=[[float(row)] for row in rows], **fields)


def binary(row: float, session: str = "", at: int = -1) -> bytes:
    name = session.encode()
    head = HEADER.pack(len(name), 0, 1, 0, at, 0)
    return frame(BINARY, head + name + bytes(-len(name) % 4) + np.array([row], "<f4").tobytes())


async def receive(connection: RawConnection) -> dict[str, Any]:
    kind, payload = await read_frame(connection)
    assert kind == TEXT, (kind, payload)
    answer: dict[str, Any] = json.loads(payload)
    return answer


async def receive_all(connection: RawConnection, count: int) -> list[dict[str, Any]]:
    return [await receive(connection) for _ in range(count)]


def sockets(service: Any) -> list[Any]:
    return [socket for socket in service.server.server_state.connections if hasattr(socket, "inbox")]


@pytest.fixture
def job_sizes(monkeypatch) -> list[int]:
    """Collects how many messages each job has that the inbox submits."""
    sizes: list[int] = []
    submit = message_inbox.MessageInbox._submit_together

    def counted(self, caller, messages, names, sockets):
        sizes.append(len(names))
        return submit(self, caller, messages, names, sockets)

    monkeypatch.setattr(message_inbox.MessageInbox, "_submit_together", counted)
    return sizes


# What goes together.


async def test_many_messages_of_one_session_in_one_read_are_answered_in_their_order(start_hot, artifacts):
    whole = series("sine", 40)
    async with start_hot() as service, opened(service) as connection:
        for start in (0, 20):  # the session is new, and then it is not
            rows = range(start, start + 20)
            await connection.send(b"".join(chunk(whole[at, 0], at=at, tag=at) for at in rows))
            answers = await receive_all(connection, 20)
            assert [answer["tag"] for answer in answers] == list(rows)
            predictions = np.concatenate([answer["predictions"] for answer in answers])
            expected = one_pass(artifacts["sine"], whole)[start : start + 20]
            assert_allclose(predictions, expected, atol=TOLERANCE, rtol=0)


async def test_messages_of_many_sessions_go_together_by_their_turn(start_hot, artifacts, job_sizes):
    whole = series("sine", 3)
    names = [f"s{i}" for i in range(9)]
    async with start_hot() as service, opened(service, "/stream") as connection:
        for name in names:
            await service.http.post("/sessions", json={"id": name, "model": "sine"})
        messages = [binary(whole[at, 0], name, at) for at in range(3) for name in names]
        await connection.send(b"".join(messages))
        predictions: dict[str, list[float]] = {name: [] for name in names}
        for _ in messages:
            _, payload = await read_frame(connection)
            length = payload[0]
            predictions[payload[HEADER.size : HEADER.size + length].decode()].append(
                float(np.frombuffer(payload[-4:], "<f4")[0])
            )
    assert job_sizes == [9, 9, 9]
    for name in names:
        assert_allclose(predictions[name], one_pass(artifacts["sine"], whole)[:, 0], atol=TOLERANCE, rtol=0)


async def test_messages_that_waited_behind_others_of_their_sessions_go_together_again(
    start_hot, artifacts, monkeypatch
):
    batches: list[list[int]] = []  # the chunks of each job
    take = Backlog.take

    def noted(self, now):
        batch = take(self, now)
        batches.append([len(job.sessions) for job in batch.jobs if type(job) is AdvanceMany])
        return batch

    monkeypatch.setattr(Backlog, "take", noted)
    whole, names, turns = series("sine", 6), [f"s{i}" for i in range(8)], range(3)
    async with start_hot() as service, opened(service, "/stream") as connection:
        for name in names:
            await service.http.post("/sessions", json={"id": name, "model": "sine"})
        batches.clear()
        tags = [f"{name} {turn}" for turn in turns for name in names]
        await connection.send(
            b"".join(
                chunk(*whole[2 * turn : 2 * turn + 2, 0], session=name, at=2 * turn, tag=f"{name} {turn}")
                for turn in turns
                for name in names
            )
        )
        answers = await receive_all(connection, len(tags))
    assert batches == [[8], [8], [8]]
    assert sorted(answer["tag"] for answer in answers) == sorted(tags)
    for name in names:
        own = np.concatenate([answer["predictions"] for answer in answers if answer["session"] == name])
        assert_allclose(own, one_pass(artifacts["sine"], whole), atol=TOLERANCE, rtol=0)


async def test_messages_of_several_sockets_go_together(start_hot, job_sizes):
    async with start_hot() as service:
        async with opened(service, "/sessions/a/stream"), opened(service, "/sessions/b/stream"):
            for socket in sockets(service):
                socket._receive(json.dumps({"observations": [0.5]}).encode(), binary=False)
            await until(lambda: not any(socket.waiting for socket in sockets(service)))
        for name in ("a", "b"):
            assert (await service.session(name))["position"] == 1
    assert job_sizes == [2]


async def test_sessions_of_different_models_share_a_socket(start_hot, artifacts):
    wide, narrow = series("pair", 4), series("sine", 4)
    async with start_hot() as service, opened(service, "/stream") as connection:
        await service.http.post("/sessions", json={"id": "wide", "model": "pair"})
        messages = []
        for at in range(4):
            messages.append(text(session="wide", observations=[wide[at].tolist()], at=at))
            messages.append(text(session="narrow", observations=[narrow[at].tolist()], at=at))
        await connection.send(b"".join(messages))
        answers = await receive_all(connection, 8)
    for name, model, whole in (("wide", "pair", wide), ("narrow", "sine", narrow)):
        predictions = [answer["predictions"][0] for answer in answers if answer["session"] == name]
        assert_allclose(predictions, one_pass(artifacts[model], whole), atol=TOLERANCE, rtol=0)


# Order and refusals.


async def test_no_message_overtakes_an_unusual_one_of_its_socket(start_hot):
    async with start_hot() as service, opened(service) as connection:
        await connection.send(chunk(0.5, at=0))
        await receive(connection)
        messages = [
            chunk(0.5, at=1, tag=0),
            chunk(0.5, at=2, tag=1, horizon=3),
            chunk(0.5, at=3, tag=2),
            text(reset=True, at=4, tag=3),
            chunk(0.5, at=4, tag=4),
            text(observations=["x"]),
            text(observations=[None], at=5, tag=6),
            chunk(0.5, at=6, tag=7),
            frame(TEXT, b'{"observations":[0.5],', fin=False) + frame(0, b'"at":7,"tag":8}'),
            chunk(0.5, at=8, tag=9),
        ]
        await connection.send(b"".join(messages))
        answers = await receive_all(connection, len(messages))
    assert [answer.get("tag") for answer in answers] == [0, 1, 2, 3, 4, None, 6, 7, 8, 9]
    assert [answer.get("position") for answer in answers] == [2, 3, 4, 4, 5, None, 6, 7, 8, 9]
    assert [len(answers[i].get("forecast", [])) for i in (0, 1)] == [0, 3]


async def test_a_refusal_among_messages_that_go_together_is_of_one_message(start_hot):
    names = [f"s{i}" for i in range(6)]
    async with start_hot() as service, opened(service, "/stream") as connection:
        for round_ in range(2):  # the sessions are new, and then they are not
            wrong = {"s3": round_ + 7}
            messages = [
                chunk(0.5, session=name, at=wrong.get(name, 0 if name == "s3" else round_)) for name in names
            ]
            await connection.send(b"".join(messages))
            answers = {answer["session"]: answer for answer in await receive_all(connection, 6)}
            assert answers.pop("s3")["status"] in (404, 409)
            assert {answer["position"] for answer in answers.values()} == {round_ + 1}


@pytest.mark.parametrize(
    ("rows", "at"),
    [([[1.0], [1.0], [1.0]], [1, 9, 2]), ([[1.0], [1.0, 2.0], [1.0]], [1, 2, 2]), ([[1.0]] * 3, [1, 1, 2])],
    ids=["out of step", "too wide", "a replay"],
)
async def test_a_refusal_or_replay_keeps_its_place_in_the_order_of_its_session(start_hot, rows, at):
    async with start_hot() as service, opened(service) as connection:
        await connection.send(chunk(1.0, at=0))
        await receive(connection)
        messages = [
            text(observations=[row], at=start, tag=tag)
            for tag, (row, start) in enumerate(zip(rows, at, strict=True))
        ]
        await connection.send(b"".join(messages))
        answers = await receive_all(connection, 3)
        assert [answer["tag"] for answer in answers] == [0, 1, 2]
        assert [answers[i]["position"] for i in (0, 2)] == [2, 3]
        assert answers[1].get("replayed") or answers[1]["status"] in (409, 422)


# Sockets that close, and keys.


async def test_messages_directly_before_a_close_are_answered_before_it(start_hot):
    async with start_hot() as service, opened(service) as connection:
        await connection.send(chunk(0.5, at=0))
        await receive(connection)
        await connection.send(chunk(0.5, at=1) + chunk(0.5, at=2) + frame(CLOSE) + chunk(0.5, at=3))
        assert [answer["position"] for answer in await receive_all(connection, 2)] == [2, 3]
        assert (await read_frame(connection))[0] == CLOSE
        assert (await service.session("s"))["position"] == 3


async def test_messages_in_the_inbox_are_applied_though_their_client_has_gone(start_hot):
    async with start_hot() as service, opened(service) as connection:
        await connection.send(chunk(0.5, at=0))
        await receive(connection)
        (socket,) = sockets(service)
        for at in (1, 2):
            socket._receive(json.dumps({"observations": [0.5], "at": at}).encode(), binary=False)
        assert len(socket.inbox) == 2
        socket.on_ws_disconnected(socket._transport)
        await until(lambda: socket.waiting == 0)
        assert (await service.session("s"))["position"] == 3


async def test_messages_in_the_inbox_of_a_revoked_key_are_not_applied(start_hot, tmp_path):
    keys = Keys(tmp_path)
    keys.add("ours")
    async with start_hot(api_keys_file=keys.path) as service:
        async with opened(service, key=keys.token["ours"]) as connection:
            await connection.send(chunk(0.5, at=0))
            await receive(connection)
            (socket,) = sockets(service)
            usage = socket.caller.usage
            socket._receive(json.dumps({"observations": [0.5]}).encode(), binary=False)
            assert (len(socket.inbox), usage.share.in_flight) == (1, 1)
            socket.revoke()
            assert (len(socket.inbox), usage.share.in_flight, socket.waiting) == (0, 0, 0)
            assert (await read_frame(connection))[0] == CLOSE
        headers = keys.headers("ours")
        assert (await service.http.get("/sessions/s", headers=headers)).json()["position"] == 1


async def test_a_keys_quota_of_jobs_in_flight_holds_for_messages_that_come_together(start_hot, tmp_path):
    keys = Keys(tmp_path)
    keys.add("ours", in_flight=2)
    async with (
        start_hot(api_keys_file=keys.path) as service,
        opened(service, "/stream", keys.token["ours"]) as connection,
    ):
        await connection.send(b"".join(chunk(0.5, session=f"s{i}", at=0) for i in range(5)))
        answers = await receive_all(connection, 5)
        (socket,) = sockets(service)
        usage = socket.caller.usage
        await until(lambda: usage.in_flight == usage.share.in_flight == socket.waiting == 0)
    assert sorted(answer.get("status", 200) for answer in answers) == [200, 200, 429, 429, 429]


async def test_messages_of_two_tenants_go_to_the_sessions_of_their_own(start_hot, tmp_path):
    keys = Keys(tmp_path)
    for name in ("ours", "theirs"):
        keys.add(name)
    async with (
        start_hot(api_keys_file=keys.path) as service,
        opened(service, key=keys.token["ours"]) as ours,
        opened(service, key=keys.token["theirs"]) as theirs,
    ):
        for at in range(3):
            for socket in sockets(service):
                body = json.dumps({"observations": [0.5], "at": at, "tag": socket.caller.tenant})
                socket._receive(body.encode(), binary=False)
            for name, connection in (("ours", ours), ("theirs", theirs)):
                answer = await receive(connection)
                assert (answer["tag"], answer["position"], answer["session"]) == (name, at + 1, "s")
        for socket in sockets(service):
            usage = socket.caller.usage
            assert (usage.in_flight, usage.share.in_flight) == (0, 0)


# Bounds and faults.


@pytest.mark.parametrize(("name", "bound"), [("MAX_MESSAGES", 3), ("MAX_BYTES", 60)])
async def test_the_inbox_holds_no_more_than_its_bounds(start_hot, monkeypatch, name, bound):
    monkeypatch.setattr(message_inbox, name, bound)
    async with start_hot() as service, opened(service):
        (socket,) = sockets(service)
        held = []
        for _ in range(7):
            socket._receive(b'{"observations":[0.5]}', binary=False)
            held.append(len(socket.inbox))
        assert held == [1, 2, 0, 1, 2, 0, 1]
        await until(lambda: socket.waiting == 0)
        assert (await service.session("s"))["position"] == 7


@pytest.mark.parametrize("store", ["memory"])
async def test_while_tenants_compete_the_inbox_takes_no_more_than_a_tenants_share(start_hot, tmp_path):
    keys = Keys(tmp_path)
    keys.add("ours")
    message = chunk(0.5)
    async with (
        start_hot(api_keys_file=keys.path, tenant_share=4) as service,
        opened(service, key=keys.token["ours"]),
    ):
        (socket,) = sockets(service)
        service.engine.fair_share.limit = 4
        socket.reader.receive(message * 400)
        assert 4 <= len(socket.inbox) <= 4 + PARSE_BYTES // len(message)
        assert socket.reader.unparsed
        await until(lambda: not socket.reader.is_waiting and socket.waiting == 0)
        headers = keys.headers("ours")
        assert (await service.http.get("/sessions/s", headers=headers)).json()["position"] == 400


async def test_a_fault_in_one_message_closes_its_socket_alone(start_hot, monkeypatch):
    def crash(*_: Any) -> Any:
        raise RuntimeError("planted")

    async with (
        start_hot() as service,
        opened(service, "/sessions/a/stream") as bad,
        opened(service, "/sessions/b/stream") as good,
    ):
        monkeypatch.setattr(frames, "decode_text", crash)
        await bad.send(chunk(0.5, horizon=1))
        kind, payload = await read_frame(bad)
        assert (kind, int.from_bytes(payload[:2], "big")) == (CLOSE, 1011)
        await good.send(chunk(0.5, at=0))
        assert (await receive(good))["position"] == 1


async def test_a_source_of_chunks_that_fails_does_not_stop_the_engine(start_hot):
    class Failing:
        def __len__(self) -> int:
            return 1

        def submit(self) -> None:
            service.engine.arrivals.remove(self)
            raise RuntimeError("planted")

    async with start_hot() as service, opened(service) as connection:
        service.engine.arrivals.insert(0, Failing())
        await connection.send(chunk(0.5, at=0))
        assert (await receive(connection))["position"] == 1
