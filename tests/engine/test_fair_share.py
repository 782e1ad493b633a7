"""Beside others a tenant has only so much under way, is read no further meanwhile, and loses nothing."""

import asyncio
import json

import pytest

from app.engine.fair_share import UNLIMITED, FairShare, TenantShare
from benchmarks.frames import masked_frame
from tests.helpers.faults import until
from tests.helpers.locked import Keys
from tests.promises.test_isolation_sockets import opened
from tests.protocols.test_http import chunk, connected, held

pytestmark = pytest.mark.anyio

SHARE, SENT = 4, 200


@pytest.fixture
def store():
    return "memory"


@pytest.fixture
def keys(tmp_path):
    keys = Keys(tmp_path)
    keys.add("flood")
    keys.add("quiet")
    return keys


def both(clock=lambda: 0.0):
    fair_share = FairShare(2, clock)
    return fair_share, TenantShare(fair_share, "a"), TenantShare(fair_share, "b")


def test_a_tenant_alone_is_not_bounded_and_beside_another_it_is_until_that_is_silent_for_a_second():
    now = 0.0
    fair_share, a, b = both(lambda: now)
    a.acquire(100)
    assert (a.full, fair_share.limit) == (False, UNLIMITED)
    b.acquire(1)
    assert (a.full, b.full, fair_share.contended) == (True, False, True)
    now = 0.9
    fair_share.update_limit()
    assert a.full
    now = 1.1
    fair_share.update_limit()
    assert not a.full


async def test_those_in_line_go_on_in_their_order_as_answers_leave():
    _, a, b = both()
    told = []

    class Line:
        def __init__(self, name):
            self.name = name

        def resume(self):
            told.append(self.name)
            a.acquire(1)

    a.acquire(2)
    b.acquire(1)
    for name in "xyz":
        a.add_waiter(Line(name))
    for expected in ("x", "xy", "xyz"):
        await asyncio.sleep(0)
        a.release(1)
        assert "".join(told) == expected[:-1]
        await asyncio.sleep(0)
        assert "".join(told) == expected


async def test_those_that_take_no_room_do_not_end_the_line():
    _, a, b = both()
    told = []

    class Line:
        def resume(self):
            told.append(self)

    a.acquire(2)
    b.acquire(1)
    for _ in range(5):
        a.add_waiter(Line())
    a.release(2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(told) == 5


def watched(service):
    """The most that the flood had under way at once, told as it goes on; several tenants call from now on."""
    service.engine.fair_share._clock = lambda: 0.0
    share = service.app.state.authenticator._tenant_shares["flood"]
    most, submit = [0], service.engine.submit

    def watch(job):
        submit(job)
        most[0] = max(most[0], share.in_flight + 1)

    service.engine.submit = watch
    return most


async def called_by_both(service, keys):
    for name in ("quiet", "flood", "quiet"):
        answer = await service.http.post(
            "/sessions/first/observations", json={"observations": [[0.5]]}, headers=keys.headers(name)
        )
        assert answer.status_code == 200


async def test_what_a_flood_pipelines_waits_in_its_connection_and_is_answered_in_order(start_hot, keys):
    header = f"authorization: Bearer {keys.token['flood']}"
    async with start_hot(api_keys_file=keys.path, tenant_share=SHARE) as service:
        await called_by_both(service, keys)
        most = watched(service)
        async with connected(service.port) as one, connected(service.port) as other:
            for connection, session in ((one, "a"), (other, "b")):
                connection.send(b"".join(chunk(session, 0.5, at, header) for at in range(SENT)))
            for connection in (one, other):
                positions = [(await connection.answer())[2]["position"] for _ in range(SENT)]
                assert positions == list(range(1, SENT + 1))
        assert SHARE <= most[0] <= 3 * SHARE  # a piece of what was read holds a few requests


async def test_a_flood_over_a_socket_waits_in_it_and_is_answered_in_order(start_hot, keys):
    async with start_hot(api_keys_file=keys.path, tenant_share=SHARE) as service:
        await called_by_both(service, keys)
        most = watched(service)
        async with opened(service, "/sessions/s/stream", keys.headers("flood")) as socket:
            await socket.recv()
            for at in range(SENT):
                await socket.send(json.dumps({"session": "s", "observations": [[0.5]], "at": at}))
            positions = [
                json.loads(await asyncio.wait_for(socket.recv(), 20))["position"] for _ in range(SENT)
            ]
        assert positions == list(range(1, SENT + 1))
        assert SHARE <= most[0] <= 6 * SHARE


async def test_a_flood_that_hangs_up_leaves_its_lane_empty(start_hot, keys):
    header = f"authorization: Bearer {keys.token['flood']}"
    async with start_hot(api_keys_file=keys.path, tenant_share=SHARE) as service:
        await called_by_both(service, keys)
        watched(service)
        share = service.app.state.authenticator._tenant_shares["flood"]
        async with connected(service.port) as connection:
            connection.send(b"".join(chunk("a", 0.5, at, header) for at in range(SENT)))
            await connection.answer()
        await until(lambda: not share.in_flight and not share._waiters)
        await called_by_both(service, keys)


async def test_long_chunks_beside_others_equal_one_pass(start_hot, keys):
    rows = [[0.01 * i] for i in range(60)]
    async with start_hot(api_keys_file=keys.path, tenant_share=SHARE) as service:
        told = []
        for session in ("alone", "beside"):
            answer = await service.http.post(
                f"/sessions/{session}/observations",
                json={"observations": rows},
                headers=keys.headers("flood"),
            )
            told.append(answer.json()["predictions"])
            await called_by_both(service, keys)
            service.engine.fair_share._clock = lambda: 0.0
        assert told[0] == [pytest.approx(row, abs=1e-6) for row in told[1]]


@pytest.mark.parametrize("why", ["in line", "calmed"])
async def test_a_connection_that_had_to_wait_is_read_on_as_a_socket(start_hot, keys, why):
    header = f"authorization: Bearer {keys.token['flood']}"
    upgrade = (
        f"GET /sessions/s/stream HTTP/1.1\r\nhost: localhost\r\n{header}\r\nupgrade: websocket\r\n"
        "connection: upgrade\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    async with start_hot(api_keys_file=keys.path, tenant_share=SHARE) as service:
        await called_by_both(service, keys)
        watched(service)
        share = service.app.state.authenticator._tenant_shares["flood"]
        async with connected(service.port) as connection:
            connection.send(chunk("a", 0.5, 0, header))
            await connection.answer()
            (protocol,) = (
                one for one in service.server.server_state.connections if one.reader.share is share
            )
            if why == "in line":
                share.acquire(SHARE)
                connection.send(upgrade)
                await until(lambda: bool(share._waiters))
                share.release(SHARE)
            else:
                protocol.throttle(0.02)
                protocol.data_received(upgrade)
            async with asyncio.timeout(20):
                assert b" 101 " in await connection.reader.readuntil(b"\r\n\r\n")
                connection.send(masked_frame(b'{"observations": [[0.5]]}', True))
                await connection.reader.readuntil(b'"predictions"')


async def test_what_is_pipelined_behind_a_request_of_the_router_is_bounded_beside_others_too(start_hot, keys):
    get = (
        f"GET /sessions/a HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {keys.token['flood']}\r\n\r\n"
    )
    async with start_hot(api_keys_file=keys.path, tenant_share=10**6) as service:
        await called_by_both(service, keys)
        service.engine.fair_share._clock = lambda: 0.0
        waiting, release = held(service)
        async with connected(service.port) as connection:
            connection.send(get.encode())
            await until(lambda: len(waiting) == 1)
            share = service.app.state.authenticator._tenant_shares["flood"]
            (protocol,) = (
                one for one in service.server.server_state.connections if one.reader.share is share
            )
            for _ in range(50):
                connection.send(get.encode() * 20)
                await asyncio.sleep(0)
            await until(lambda: not protocol.transport.is_reading())
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(protocol.pipeline) < 50
            release()
            assert [(await connection.answer())[0] for _ in range(1001)] == [404] * 1001


async def test_a_connection_that_cannot_be_read_on_holds_up_nobody_behind_it(caplog):
    _, a, b = both()
    told = []

    class Line:
        def resume(self):
            told.append(self)
            if len(told) == 1:
                raise ValueError("broken")

    a.acquire(2)
    b.acquire(1)
    for _ in range(2):
        a.add_waiter(Line())
    a.release(1)
    await asyncio.sleep(0)
    assert len(told) == 2
    assert "could not be read on" in caplog.text
