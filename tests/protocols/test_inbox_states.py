"""What happens to a plain connection at every moment: at rest, in the inbox, and awaiting its answer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from app.jobs.jobs import AdvanceMany
from app.observability.metrics import Metrics
from app.protocols.exchange import ChunkExchange
from app.protocols.http import HotProtocol
from app.protocols.plain_reading import MAX_MISSES, Plain
from tests.helpers import faults
from tests.helpers.faults import inbox_held, until
from tests.helpers.locked import Keys
from tests.protocols.test_http import Connection, chunk, connected, post

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["memory"], indirect=True)]

GET = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
SHARE = 4


@asynccontextmanager
async def ticks_held(service: Any) -> AsyncIterator[None]:
    """Have plain requests submitted, and wait for their answers."""
    service.engine._may_apply_at_once = False
    async with faults.held(service.engine):
        yield


def protocol_of(service: Any, connection: Connection) -> HotProtocol:
    port = connection.writer.get_extra_info("sockname")[1]
    return next(
        protocol
        for protocol in service.server.server_state.connections
        if protocol.transport.get_extra_info("peername")[1] == port
    )


async def at_rest(service: Any, connection: Connection, session: str = "s", *more: str) -> HotProtocol:
    """Send a first chunk; what comes in next on the connection goes to the inbox."""
    connection.send(chunk(session, 0.5, None, *more))
    assert (await connection.answer())[0] == 200
    protocol = protocol_of(service, connection)
    assert protocol._plain is Plain.NEXT
    return protocol


@asynccontextmanager
async def several(service: Any, sessions: list[str], *more: str) -> AsyncIterator[list[Connection]]:
    """A connection at rest for each of these sessions."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(service.port)) for _ in sessions]
        for connection, session in zip(connections, sessions, strict=True):
            await at_rest(service, connection, session, *more)
        yield connections


async def in_inbox(service: Any, count: int) -> None:
    protocols = service.server.server_state.connections
    await until(lambda: sum(protocol._plain is Plain.IN_INBOX for protocol in protocols) == count)


@asynccontextmanager
async def waiting(service: Any, moment: str, connection: Connection) -> AsyncIterator[HotProtocol]:
    """A connection at rest sends a chunk, which is in the inbox or awaits its answer in the block."""
    protocol = await at_rest(service, connection)
    if moment == "in the inbox":
        with inbox_held(service.engine):
            connection.send(chunk("s", at=1))
            await until(lambda: protocol._plain is Plain.IN_INBOX)
            yield protocol
    else:
        async with ticks_held(service):
            connection.send(chunk("s", at=1))
            await until(lambda: protocol._plain is Plain.AWAITED)
            yield protocol


moments = pytest.mark.parametrize("moment", ["in the inbox", "awaited"])


# What else comes in on the connection.


@moments
@pytest.mark.parametrize("behind", ["a chunk", "a refused chunk", "another route", "garbage", "half a chunk"])
async def test_what_comes_in_behind_a_plain_request_is_answered_behind_it(start_hot, moment, behind):
    second = chunk("s", at=2)
    sent = {
        "a chunk": second,
        "a refused chunk": post("/sessions/s/observations", b"{"),
        "another route": GET,
        "garbage": b"garbage\r\n\r\n",
        "half a chunk": second[:70],
    }[behind]
    async with start_hot() as service, connected(service.port) as connection:
        async with waiting(service, moment, connection) as protocol:
            connection.send(sent)
            await until(lambda: protocol._plain is Plain.NO)
            for _ in range(100):  # in which another route, which needs no engine, would answer
                await asyncio.sleep(0)
        assert (await connection.answer())[2].get("position") == 2
        if behind == "half a chunk":
            connection.send(second[70:])
        status, _, body = await connection.answer()
        assert (status, body.get("position")) == {
            "a chunk": (200, 3), "half a chunk": (200, 3), "a refused chunk": (400, None),
            "another route": (200, None), "garbage": (400, None),
        }[behind]  # fmt: skip
        if behind == "garbage":
            assert await connection.closed()
        else:
            connection.send(chunk("s"))
            assert (await connection.answer())[0] == 200


@moments
async def test_many_chunks_behind_a_plain_one_are_answered_in_order(start_hot, moment):
    async with start_hot() as service, connected(service.port) as connection:
        async with waiting(service, moment, connection) as protocol:
            for at in range(2, 12):
                connection.send(chunk("s", at=at))
            await until(lambda: protocol._plain is Plain.NO)
        assert [(await connection.answer())[2]["position"] for _ in range(11)] == list(range(2, 13))


async def test_a_request_in_pieces_is_put_together_wherever_it_is_cut(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        protocol = await at_rest(service, connection)
        data = chunk("s")
        for position, cut in enumerate(range(1, len(data), 9), 2):
            with inbox_held(service.engine):
                connection.send(data[:cut])
                await until(lambda: protocol._plain is not Plain.NEXT)
                connection.send(data[cut:])
                await until(lambda: protocol._plain is not Plain.IN_INBOX)
            assert (await connection.answer())[2]["position"] == position
            await at_rest_again(protocol, connection, "other")


async def at_rest_again(protocol: HotProtocol, connection: Connection, session: str) -> None:
    connection.send(chunk(session))
    await connection.answer()
    assert protocol._plain is Plain.NEXT


async def test_a_half_request_that_was_tried_alone_goes_on_by_the_parser(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        protocol = await at_rest(service, connection)
        data = chunk("s")
        connection.send(data[:60])
        await until(lambda: protocol._plain is Plain.NO)
        assert protocol._message_began is not None
        connection.send(data[60:])
        assert (await connection.answer())[2]["position"] == 2


async def test_100_continue_is_said_to_a_connection_that_was_plain(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        await at_rest(service, connection)
        head, _, body = chunk("s", 0.5, None, "expect: 100-continue").partition(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        async with asyncio.timeout(20):
            assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(body)
        assert (await connection.answer())[2]["position"] == 2


async def test_a_connection_that_was_plain_becomes_a_socket(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        await at_rest(service, connection)
        connection.send(
            b"GET /sessions/s/stream HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n"
            b"connection: upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        async with asyncio.timeout(20):
            assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


async def test_connection_close_is_obeyed_by_a_connection_that_was_plain(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        await at_rest(service, connection)
        connection.send(chunk("s", 0.5, None, "connection: close"))
        assert (await connection.answer())[1]["connection"] == "close"
        assert await connection.closed()


# The end of a connection.


@moments
async def test_a_client_that_hangs_up_disturbs_nobody_and_its_chunk_is_applied(start_hot, moment):
    async with start_hot() as service, several(service, ["n"]) as (neighbour,):
        async with connected(service.port) as leaver, waiting(service, moment, leaver) as protocol:
            neighbour.send(chunk("n", at=1))
            leaver.writer.transport.abort()
            await until(lambda: protocol not in service.server.server_state.connections)
        assert (await neighbour.answer())[2]["position"] == 2
        neighbour.send(chunk("s", at=1))
        status, _, body = await neighbour.answer()
        assert (status, body["position"], body["replayed"]) == (200, 2, True)
        assert service.engine.queue_length == 0


@pytest.mark.parametrize("data", [GET, b"garbage\r\n\r\n", chunk("s")[:50], chunk("s") + GET])
async def test_whatever_a_client_leaves_in_the_inbox_disturbs_nobody(start_hot, data, caplog):
    async with start_hot() as service, several(service, ["n"]) as (neighbour,):
        async with connected(service.port) as leaver:
            protocol = await at_rest(service, leaver)
            with inbox_held(service.engine):
                leaver.send(data)
                await until(lambda: protocol._plain is Plain.IN_INBOX)
                leaver.writer.transport.abort()
                await until(lambda: protocol not in service.server.server_state.connections)
        neighbour.send(chunk("n", at=1))
        assert (await neighbour.answer())[2]["position"] == 2
        assert not caplog.records


@moments
async def test_shutdown_answers_a_plain_request_and_closes(start_hot, moment):
    async with start_hot() as service, connected(service.port) as connection, connected(service.port) as idle:
        rest = await at_rest(service, idle, "idle")
        async with waiting(service, moment, connection) as protocol:
            rest.shutdown()
            protocol.shutdown()
            assert await idle.closed()
        status, headers, body = await connection.answer()
        assert (status, body["position"], headers["connection"]) == (200, 2, "close")
        assert await connection.closed()


async def test_shutdown_refuses_half_a_request_in_the_inbox(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        protocol = await at_rest(service, connection)
        with inbox_held(service.engine):
            connection.send(chunk("s")[:40])
            await until(lambda: protocol._plain is Plain.IN_INBOX)
            protocol.shutdown()
        assert (await connection.answer())[0] == 503
        assert await connection.closed()


@moments
async def test_a_plain_connection_is_idle_only_at_rest(start_hot, moment):
    async with start_hot(keep_alive_seconds=1) as service, connected(service.port) as connection:
        async with waiting(service, moment, connection) as protocol:
            protocol._last_heard -= 100
            protocol.timeout_keep_alive_handler()
            assert not protocol.transport.is_closing()
        assert (await connection.answer())[0] == 200
        protocol._last_heard -= 100
        protocol.timeout_keep_alive_handler()
        assert await connection.closed()


async def test_a_stopping_engine_refuses_what_would_wait_for_its_next_batch(start_hot, monkeypatch):
    async with start_hot() as service, connected(service.port) as connection:
        protocol = await at_rest(service, connection)
        with inbox_held(service.engine), monkeypatch.context() as patch:  # it collects no batch any more
            patch.setattr(service.engine, "stopping", True)
            connection.send(chunk("s"))
            await until(lambda: protocol._plain is not Plain.NEXT)
            assert protocol._plain is Plain.NO
            assert (await connection.answer())[0] == 503


async def test_a_client_that_does_not_read_is_not_read(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        async with waiting(service, "awaited", connection) as protocol:
            protocol.pause_writing()
            connection.send(chunk("s", at=2))
        await connection.answer()
        assert not protocol.transport.is_reading()
        protocol.resume_writing()
        assert (await connection.answer())[2]["position"] == 3


# Keys.


@pytest.fixture
def keys(tmp_path) -> Keys:
    made = Keys(tmp_path)
    for name in ("flood", "quiet"):
        made.add(name)
    return made


def bearer(keys: Keys, name: str) -> str:
    return f"authorization: Bearer {keys.token[name]}"


async def test_a_key_that_is_revoked_meanwhile_is_refused(start_hot, keys):
    async with start_hot(api_keys_file=keys.path) as service, connected(service.port) as connection:
        await at_rest(service, connection, "s", bearer(keys, "quiet"))
        with inbox_held(service.engine):
            connection.send(chunk("s", 0.5, 1, bearer(keys, "quiet")))
            await in_inbox(service, 1)
            keys.remove("quiet")
            service.app.state.authenticator.refresh()
        assert (await connection.answer())[0] == 401
        slab = service.engine.residents.models.current["sine"]
        assert slab.headers["position"][slab.index["quiet/s"]] == 1


async def test_another_key_on_the_same_connection_is_another_tenant(start_hot, keys):
    async with start_hot(api_keys_file=keys.path) as service, connected(service.port) as connection:
        for position in (1, 2, 3):
            for name in ("quiet", "flood"):
                connection.send(chunk("s", 0.5, position - 1, bearer(keys, name)))
                assert (await connection.answer())[2]["position"] == position


async def test_the_head_of_a_refused_request_is_not_taken_for_that_of_the_one_behind_it(start_hot, keys):
    """Both come in one piece; the first is refused at once, so that only the second waits."""
    async with start_hot(api_keys_file=keys.path) as service, connected(service.port) as connection:
        connection.send(
            post("/sessions/s/observations", b"{", bearer(keys, "flood"))
            + chunk("s", 0.5, 0, bearer(keys, "quiet"))
        )
        assert [(await connection.answer())[0] for _ in range(2)] == [400, 200]
        connection.send(chunk("s", 0.5, 0, bearer(keys, "flood")))  # the first head, and a body that is right
        assert (await connection.answer())[2].get("position") == 1
        assert {"flood/s", "quiet/s"} <= service.engine.residents.models.current["sine"].index.keys()


async def test_a_routed_request_behind_a_chunk_does_not_give_its_head(start_hot):
    async with start_hot() as service, connected(service.port) as connection:
        async with waiting(service, "awaited", connection) as protocol:
            connection.send(chunk("s", 0.5, 2, "origin: http://localhost"))
            await until(lambda: protocol._held is not None)
            assert not protocol._has_head
        assert [(await connection.answer())[2]["position"] for _ in range(2)] == [2, 3]


# Limits.


async def test_a_body_over_the_limit_is_refused_on_a_connection_that_was_plain(start_hot):
    async with start_hot(body_bytes=1024) as service, connected(service.port) as connection:
        for body, status in ((b" " * 1000, 200), (b" " * 1001, 413)):
            connection.send(post("/sessions/s/observations", b'{"observations":[0.5]}  ' + body))
            assert (await connection.answer())[0] == status


async def test_of_new_sessions_as_many_are_created_as_there_is_room_for(start_hot):
    async with (
        start_hot(max_sessions=7) as service,
        several(service, ["a", "b", "c", "d", "e"]) as connections,
    ):
        with inbox_held(service.engine):
            for i, connection in enumerate(connections):
                connection.send(chunk(f"new-{i}"))
            await in_inbox(service, 5)
        statuses = [(await connection.answer())[0] for connection in connections]
        assert sorted(statuses) == [200, 200, 503, 503, 503]
        assert len(service.engine.residents) == 7


async def test_a_full_queue_refuses_plain_requests_and_their_connections_go_on(start_hot):
    async with (
        start_hot(queue_jobs=2, bulk_sessions=2) as service,
        several(service, ["a", "b", "c", "d", "e"]) as connections,
    ):
        async with ticks_held(service):
            with inbox_held(service.engine):
                for connection, session in zip(connections, "abcde", strict=True):
                    connection.send(chunk(session, at=1))
                await in_inbox(service, 5)
            await in_inbox(service, 0)
            assert service.engine.metrics.refusals["overloaded"] == 3
        answers = [await connection.answer() for connection in connections]
        assert [status for status, _, _ in answers] == [200, 200, 503, 503, 503]
        for connection, session in zip(connections, "abcde", strict=True):
            connection.send(chunk(session, at=1))
            assert (await connection.answer())[2]["position"] == 2


async def test_in_flight_refuses_exactly_the_surplus(start_hot, tmp_path):
    keys = Keys(tmp_path)
    keys.add("acme", in_flight=3)
    header = bearer(keys, "acme")
    sessions = [f"s{i}" for i in range(8)]
    async with (
        start_hot(api_keys_file=keys.path) as service,
        several(service, sessions, header) as connections,
    ):
        async with ticks_held(service):
            with inbox_held(service.engine):
                for connection, session in zip(connections, sessions, strict=True):
                    connection.send(chunk(session, 0.5, 1, header))
                await in_inbox(service, 8)
            await in_inbox(service, 0)
            assert service.engine.metrics.refusals["over-limit"] == 5
            usage = protocol_of(service, connections[0]).caller.usage
            assert (usage.in_flight, usage.share.in_flight) == (3, 3)
        answers = [await connection.answer() for connection in connections]
        assert sorted(status for status, _, _ in answers) == [200] * 3 + [429] * 5
        assert {body["position"] for status, _, body in answers if status == 200} == {2}
        assert (usage.in_flight, usage.share.in_flight) == (0, 0)


@pytest.mark.parametrize("direct", [True, False])
async def test_observations_a_second_refuse_exactly_the_surplus(start_hot, tmp_path, direct):
    keys = Keys(tmp_path)
    keys.add("acme", observations_per_second=100)
    header = bearer(keys, "acme")
    sessions = [f"s{i}" for i in range(8)]
    async with (
        start_hot(api_keys_file=keys.path) as service,
        several(service, sessions, header) as connections,
    ):
        if not direct:
            service.engine._may_apply_at_once = False
        bucket = protocol_of(service, connections[0]).caller.usage.bucket
        bucket._clock = lambda: bucket._at
        bucket._level = 5.0
        with inbox_held(service.engine):
            for connection, session in zip(connections, sessions, strict=True):
                connection.send(chunk(session, 0.5, 1, header))
            await in_inbox(service, 8)
        answers = [await connection.answer() for connection in connections]
        assert sorted(status for status, _, _ in answers) == [200] * 5 + [429] * 3
        assert bucket._level == 0


def flood_of(service: Any) -> tuple[list[int], list[int]]:
    """The sizes of the flood's bulk jobs, and what it has in flight at each job; both tenants call."""
    share = service.app.state.authenticator._tenant_shares["flood"]
    service.engine.fair_share._clock = lambda: 0.0
    sizes: list[int] = []
    in_flight: list[int] = []
    submit = service.engine.submit

    def watch(job: Any) -> None:
        if type(job) is AdvanceMany and job.usage.share is share:
            sizes.append(len(job))
        in_flight.append(share.in_flight)
        submit(job)

    service.engine.submit = watch
    return sizes, in_flight


@pytest.mark.parametrize("direct", [True, False])
async def test_a_flood_of_plain_requests_has_no_more_in_flight_than_its_share(start_hot, keys, direct):
    sessions = [f"s{i}" for i in range(20)]
    flood, calm = bearer(keys, "flood"), bearer(keys, "quiet")
    async with start_hot(api_keys_file=keys.path, tenant_share=SHARE) as service, AsyncExitStack() as stack:
        connections = await stack.enter_async_context(several(service, sessions, flood))
        (quiet,) = await stack.enter_async_context(several(service, ["q"], calm))
        if not direct:
            service.engine._may_apply_at_once = False
        sizes, in_flight = flood_of(service)
        protocols = [protocol_of(service, connection) for connection in (quiet, *connections)]
        for at in range(1, MAX_MISSES + 3):
            await until(lambda: all(protocol._plain is Plain.NEXT for protocol in protocols))
            with inbox_held(service.engine):
                for connection, session in zip(connections, sessions, strict=True):
                    connection.send(chunk(session, 0.5, at, flood))
                quiet.send(chunk("q", 0.5, at, calm))
                await in_inbox(service, 21)  # a surplus does not take a connection out of the inbox
            for connection in (quiet, *connections):
                assert (await connection.answer())[2]["position"] == at + 1
        assert sizes[:1] == [SHARE]
        assert max(sizes) <= SHARE
        assert max(in_flight) <= SHARE


# Several connections in one batch.


async def exchanged(service: Any, connections: list[Connection], sent: list[bytes]) -> list[tuple[int, Any]]:
    """Send a piece on each connection, have them submitted together, and return statuses and bodies."""
    with inbox_held(service.engine):
        for connection, data in zip(connections, sent, strict=True):
            connection.send(data)
        await in_inbox(service, len(sent))
    answers = [await connection.answer() for connection in connections]
    return [(status, body) for status, _, body in answers]


ways = pytest.mark.parametrize("direct", [True, False])


@asynccontextmanager
async def batching(start_hot: Any, sessions: list[str], direct: bool, **changes: Any) -> AsyncIterator[Any]:
    async with start_hot(**changes) as service, several(service, sessions) as connections:
        if not direct:
            service.engine._may_apply_at_once = False
        yield service, connections


@ways
async def test_answers_go_to_the_connections_that_asked(start_hot, direct):
    sessions = [f"s{i}" for i in range(9)]
    async with batching(start_hot, sessions, direct) as (service, connections):
        for at in range(1, 4):
            answers = await exchanged(service, connections, [chunk(s, i, at) for i, s in enumerate(sessions)])
            assert [(status, body["session"]) for status, body in answers] == [(200, s) for s in sessions]
            assert len({body["predictions"][0][0] for _, body in answers}) == len(sessions)


@ways
async def test_one_session_on_several_connections_is_advanced_in_the_order_of_arrival(start_hot, direct):
    async with batching(start_hot, ["s", "a", "b", "c"], direct) as (service, connections):
        answers = await exchanged(service, connections, [chunk("s")] * 4)
        assert [(status, body["position"]) for status, body in answers] == [(200, at) for at in (2, 3, 4, 5)]


@ways
async def test_the_same_chunk_on_two_connections_is_applied_once(start_hot, direct):
    async with batching(start_hot, ["s", "a", "b"], direct) as (service, connections):
        sent = [chunk("s", 0.5, 1), chunk("s", 0.5, 1), chunk("s", 0.75, 1)]
        answers = await exchanged(service, connections, sent)
        assert [status for status, _ in answers] == [200, 200, 409]
        assert [(body["position"], body["replayed"]) for _, body in answers[:2]] == [(2, False), (2, True)]
        connections[0].send(chunk("s", 0.5, 2))
        assert (await connections[0].answer())[2]["position"] == 3


@ways
async def test_chunks_of_other_widths_models_and_lengths_share_a_batch(start_hot, direct):
    async with batching(start_hot, ["s", "a", "b", "c", "d"], direct) as (service, connections):
        await service.http.post(
            "/sessions/p/observations", json={"observations": [[1, 2, 3]], "model": "pair"}
        )
        bodies = ["[[0.5]]", "[[1,2]]", "[[1,2,3]]", "[0.25,0.5,0.75]", "[[1,2,3],[4,5,6]]"]
        names = ["s", "a", "p", "c", "d"]
        sent = [
            post(f"/sessions/{name}/observations", b'{"observations":%b}' % body.encode())
            for name, body in zip(names, bodies, strict=True)
        ]
        answers = await exchanged(service, connections, sent)
        assert [status for status, _ in answers] == [200, 422, 200, 200, 422]
        assert [body["position"] for status, body in answers if status == 200] == [2, 2, 4]
        assert [len(body["predictions"]) for status, body in answers if status == 200] == [1, 1, 3]
        assert len(answers[2][1]["predictions"][0]) == 3


async def test_a_session_that_is_busy_holds_up_no_other(start_hot):
    async with (
        start_hot() as service,
        several(service, ["s", "a"]) as connections,
        connected(service.port) as slow,
    ):
        rows = json.dumps({"observations": [0.5] * 3000, "horizon": 100}).encode()
        slow.send(post("/sessions/s/observations", rows))
        await until(lambda: bool(service.engine._backlog.slow))
        for connection, session in zip(connections, "sa", strict=True):
            connection.send(chunk(session))
        assert (await connections[1].answer())[2]["position"] == 2
        assert service.engine._backlog.slow
        assert (await slow.answer())[2]["position"] == 3001
        assert (await connections[0].answer())[2]["position"] == 3002


@ways
async def test_expired_sessions_in_a_batch_begin_anew_or_are_gone(start_hot, clock, direct):
    async with batching(start_hot, ["s", "a", "b"], direct, idle_ttl_seconds=10) as (service, connections):
        clock.wait(6)
        await exchanged(service, connections[:1], [chunk("s", 0.5, 1)])
        clock.wait(6)
        answers = await exchanged(service, connections, [chunk("s", 0.5, 2), chunk("a"), chunk("b", 0.5, 1)])
        assert [status for status, _ in answers] == [200, 200, 410]
        assert [body["position"] for _, body in answers] == [3, 1, 1]


# Failures.


async def test_a_failure_while_jobs_are_submitted_is_answered_once_to_everybody(
    start_hot, keys, monkeypatch, caplog
):
    header = bearer(keys, "quiet")
    async with (
        start_hot(api_keys_file=keys.path) as service,
        several(service, ["a", "b"], header) as connections,
    ):
        with caplog.at_level(logging.CRITICAL), monkeypatch.context() as patch:
            patch.setattr(service.engine, "submit", lambda _: 1 / 0)
            sent = [chunk(session, 0.5, 1, header) for session in "ab"]
            assert [status for status, _ in await exchanged(service, connections, sent)] == [500, 500]
        usage = protocol_of(service, connections[0]).caller.usage
        assert (usage.in_flight, usage.share.in_flight) == (0, 0)
        answers = await exchanged(service, connections, sent)
        assert [(status, body["position"]) for status, body in answers] == [(200, 2)] * 2


async def test_a_job_that_was_taken_before_the_failure_is_not_answered_twice(start_hot, monkeypatch, caplog):
    async with start_hot() as service, several(service, ["a", "b"]) as connections:
        async with ticks_held(service):
            submit = service.engine.submit
            with caplog.at_level(logging.CRITICAL), monkeypatch.context() as patch:
                patch.setattr(service.engine, "submit", lambda job: (submit(job), 1 / 0))
                sent = [chunk(session, 0.5, 1) for session in "ab"]
                assert [status for status, _ in await exchanged(service, connections, sent)] == [500, 500]
            for connection, session in zip(connections, "ab", strict=True):
                connection.send(chunk(session, 0.5, 2))
            await in_inbox(service, 2)
        for connection in connections:
            assert (await connection.answer())[2]["position"] == 3


async def test_a_failure_while_answers_are_written_is_answered(start_hot, monkeypatch, caplog):
    async with start_hot() as service, several(service, ["a", "b"]) as connections:
        with caplog.at_level(logging.CRITICAL), monkeypatch.context() as patch:
            patch.setattr("app.protocols.inbox.write_plain_answers", lambda *_: 1 / 0)
            sent = [chunk(session, 0.5, 1) for session in "ab"]
            assert [status for status, _ in await exchanged(service, connections, sent)] == [500, 500]
        answers = await exchanged(service, connections, sent)
        assert [(status, body["replayed"]) for status, body in answers] == [(200, True)] * 2


async def test_pieces_that_cannot_be_read_together_go_to_their_parsers(start_hot, monkeypatch, caplog):
    async with start_hot() as service, several(service, ["a", "b"]) as connections:
        with caplog.at_level(logging.CRITICAL), monkeypatch.context() as patch:
            patch.setattr("app.protocols.inbox.read_plain", lambda *_: 1 / 0)
            answers = await exchanged(service, connections, [chunk(session) for session in "ab"])
        assert [(status, body["position"]) for status, body in answers] == [(200, 2)] * 2


async def test_a_connection_that_fails_is_closed_and_the_others_go_on(start_hot, monkeypatch, caplog):
    async with start_hot() as service, several(service, ["a", "b"]) as (bad, good):
        monkeypatch.setattr(protocol_of(service, bad), "parse", lambda _: 1 / 0)
        with caplog.at_level(logging.CRITICAL), inbox_held(service.engine):
            bad.send(GET)
            good.send(chunk("b"))
            await in_inbox(service, 2)
        assert await bad.closed()
        assert (await good.answer())[2]["position"] == 2
        assert not service.engine.liveness_problems()


# When the inbox is not used.


def plain_ones(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each plain request that is answered from now on."""
    seen: list[bool] = []
    write = HotProtocol.write_plain

    def writing(self: HotProtocol, response: bytes) -> None:
        seen.append(True)
        write(self, response)

    monkeypatch.setattr(HotProtocol, "write_plain", writing)
    return seen


@pytest.mark.parametrize("changes", [{}, {"access_log": True}, {"hot_route": False}])
async def test_requests_that_are_logged_or_routed_do_not_use_the_inbox(start_hot, monkeypatch, changes):
    seen = plain_ones(monkeypatch)
    async with start_hot(**changes) as service, connected(service.port) as connection:
        for at in range(6):
            connection.send(chunk("s", at=at))
            assert (await connection.answer())[2]["position"] == at + 1
        assert len(seen) == (0 if changes else 5)


async def test_a_traced_server_does_not_use_the_inbox(start_hot, monkeypatch):
    seen = plain_ones(monkeypatch)
    async with start_hot() as service, connected(service.port) as connection:
        monkeypatch.setattr(service.engine, "tracing", NoTracing())
        for at in range(6):
            connection.send(chunk("s", at=at))
            assert (await connection.answer())[2]["position"] == at + 1
    assert not seen


class NoTracing:
    """Records no batch."""

    def begin_batch(self, sessions: int) -> None: ...

    def end_batch(self) -> None: ...


async def test_a_request_with_an_id_is_answered_with_it(start_hot, monkeypatch):
    seen = plain_ones(monkeypatch)
    async with start_hot() as service, connected(service.port) as connection:
        for at in range(6):
            connection.send(chunk("s", 0.5, at, "x-request-id: mine"))
            assert (await connection.answer())[1]["x-request-id"] == "mine"
    assert not seen


async def test_a_connection_without_plain_requests_is_tried_only_so_often(start_hot, monkeypatch):
    async with start_hot() as service, connected(service.port) as connection:
        odd = post("/sessions/s/observations", b'{"observations":[0.5],"horizon":1}')
        tried = 0
        for _ in range(MAX_MISSES + 5):
            connection.send(odd)
            await connection.answer()
            tried += protocol_of(service, connection)._plain is Plain.NEXT
        assert tried == MAX_MISSES


async def test_what_comes_in_during_a_long_commit_is_heard_when_it_comes(start_hot):
    """A connection that seemed idle since the first of them came in would be closed behind its answer."""
    async with start_hot() as service, several(service, ["a", "b"]) as (first, second):
        protocols = [protocol_of(service, connection) for connection in (first, second)]
        with inbox_held(service.engine):
            first.send(chunk("a", 0.5, 1))
            await in_inbox(service, 1)
            heard, loop = protocols[0]._last_heard, asyncio.get_running_loop()
            await until(lambda: loop.time() > heard)
            second.send(chunk("b", 0.5, 1))
            await in_inbox(service, 2)
            assert protocols[1]._last_heard > heard == protocols[0]._last_heard
        assert [(await connection.answer())[0] for connection in (first, second)] == [200, 200]


async def test_every_plain_request_is_counted_once(start_hot):
    async with start_hot() as service, several(service, [f"s{i}" for i in range(5)]) as connections:
        metrics: Metrics = service.engine.metrics
        route = ChunkExchange.route
        sent = [chunk(f"s{i}", 0.5, 1 if i else 7) for i in range(5)]
        await exchanged(service, connections, sent)
        assert metrics.requests == {(route, 200): 9, (route, 409): 1}
        assert metrics.request_seconds[route].count == 10
        assert (metrics.chunks, metrics.observations, metrics.replays) == (9, 9, 0)
        assert metrics.refusals == {"out-of-step": 1}
