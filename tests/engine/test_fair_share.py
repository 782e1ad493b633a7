"""While others call, a tenant has a bounded number of jobs in flight, is not read on, and loses nothing."""

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


def test_a_tenant_is_bounded_only_while_another_has_called_within_the_last_second():
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


async def test_waiting_connections_resume_in_order_as_answers_leave():
    _, a, b = both()
    resumed = []

    class Connection:
        def __init__(self, name):
            self.name = name

        def resume(self):
            resumed.append(self.name)
            a.acquire(1)

    a.acquire(2)
    b.acquire(1)
    for name in "xyz":
        a.add_waiter(Connection(name))
    for expected in ("x", "xy", "xyz"):
        await asyncio.sleep(0)
        a.release(1)
        assert "".join(resumed) == expected[:-1]
        await asyncio.sleep(0)
        assert "".join(resumed) == expected


async def test_a_connection_that_takes_no_room_does_not_stop_those_behind_it():
    _, a, b = both()
    resumed = []

    class Connection:
        def resume(self):
            resumed.append(self)

    a.acquire(2)
    b.acquire(1)
    for _ in range(5):
        a.add_waiter(Connection())
    a.release(2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(resumed) == 5


def watched(service):
    """[most jobs that the flood had in flight at once], kept up to date; several tenants call from now on."""
    service.engine.fair_share._clock = lambda: 0.0
    share = service.app.state.authenticator._tenant_shares["flood"]
    most_in_flight, submit = [0], service.engine.submit

    def watch(job):
        submit(job)
        most_in_flight[0] = max(most_in_flight[0], share.in_flight + 1)

    service.engine.submit = watch
    return most_in_flight


async def called_by_both(service, keys):
    for name in ("quiet", "flood", "quiet"):
        answer = await service.http.post(
            "/sessions/first/observations", json={"observations": [[0.5]]}, headers=keys.headers(name)
        )
        assert answer.status_code == 200


async def test_pipelined_chunks_of_a_flood_wait_in_its_connection_and_are_answered_in_order(start_hot, keys):
    header = f"authorization: Bearer {keys.token['flood']}"
    async with start_hot(api_keys_file=keys.path, tenant_share=SHARE) as service:
        await called_by_both(service, keys)
        most_in_flight = watched(service)
        async with connected(service.port) as first, connected(service.port) as second:
            for connection, session in ((first, "a"), (second, "b")):
                connection.send(b"".join(chunk(session, 0.5, at, header) for at in range(SENT)))
            for connection in (first, second):
                positions = [(await connection.answer())[2]["position"] for _ in range(SENT)]
                assert positions == list(range(1, SENT + 1))
        assert SHARE <= most_in_flight[0] <= 3 * SHARE  # a piece of what was read holds a few requests


async def test_chunks_of_a_flood_over_a_socket_wait_in_it_and_are_answered_in_order(start_hot, keys):
    async with start_hot(api_keys_file=keys.path, tenant_share=SHARE) as service:
        await called_by_both(service, keys)
        most_in_flight = watched(service)
        async with opened(service, "/sessions/s/stream", keys.headers("flood")) as socket:
            await socket.recv()
            for at in range(SENT):
                await socket.send(json.dumps({"session": "s", "observations": [[0.5]], "at": at}))
            positions = [
                json.loads(await asyncio.wait_for(socket.recv(), 20))["position"] for _ in range(SENT)
            ]
        assert positions == list(range(1, SENT + 1))
        assert SHARE <= most_in_flight[0] <= 6 * SHARE


async def test_a_flood_that_hangs_up_leaves_no_job_in_flight(start_hot, keys):
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


async def test_long_chunks_while_others_call_equal_one_pass(start_hot, keys):
    rows = [[0.01 * i] for i in range(60)]
    async with start_hot(api_keys_file=keys.path, tenant_share=SHARE) as service:
        predictions = []
        for session in ("alone", "beside"):
            answer = await service.http.post(
                f"/sessions/{session}/observations",
                json={"observations": rows},
                headers=keys.headers("flood"),
            )
            predictions.append(answer.json()["predictions"])
            await called_by_both(service, keys)
            service.engine.fair_share._clock = lambda: 0.0
        assert predictions[0] == [pytest.approx(row, abs=1e-6) for row in predictions[1]]


@pytest.mark.parametrize("reason", ["share is full", "throttled"])
async def test_a_connection_that_had_to_wait_is_upgraded_to_a_socket(start_hot, keys, reason):
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
                found for found in service.server.server_state.connections if found.reader.share is share
            )
            if reason == "share is full":
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


async def test_requests_pipelined_behind_a_routed_request_are_bounded_while_others_call(start_hot, keys):
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
                found for found in service.server.server_state.connections if found.reader.share is share
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


async def test_a_connection_that_cannot_be_resumed_does_not_stop_those_behind_it(caplog):
    _, a, b = both()
    resumed = []

    class Connection:
        def resume(self):
            resumed.append(self)
            if len(resumed) == 1:
                raise ValueError("broken")

    a.acquire(2)
    b.acquire(1)
    for _ in range(2):
        a.add_waiter(Connection())
    a.release(1)
    await asyncio.sleep(0)
    assert len(resumed) == 2
    assert "could not be resumed" in caplog.text
