"""Two hundred clients at once, with retries and dropped connections: nothing twice, nothing lost.

The checker must be able to fail: the last tests plant the bugs that it is there to find.
"""

import asyncio
import contextlib
import json

import numpy as np
import pytest

from app.session import recent_answers
from tests.helpers.ways import HotRoute, HttpRoute, TextSocket
from tests.helpers.zoo import TOLERANCE, one_pass, series
from tests.promises.test_promises import cuts, equal

pytestmark = pytest.mark.anyio
over_sockets = pytest.mark.parametrize("way", [HotRoute, HttpRoute], indirect=True)


class Dropped(Exception):
    """The connection went before the answer came."""


class Client:
    """One stream over raw connections, which it drops at random: before, amid and after sending a chunk."""

    def __init__(self, port: int, name: str, seed: int) -> None:
        self.port, self.name = port, name
        self.rng = np.random.default_rng(seed)
        self.line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.retries = 0

    async def stream(self, whole, sizes) -> np.ndarray:
        got, at, epoch = [], 0, None
        for size in sizes:
            body = {"observations": whole[at : at + size].tolist(), "at": at}
            if epoch is not None:
                body["epoch"] = epoch
            answer = await self.insist(json.dumps(body).encode())
            got.append(np.array(answer["predictions"], np.float32))
            at, epoch = at + size, answer["epoch"]
            assert answer["position"] == at, f"{self.name} is at {answer['position']}, not {at}"
        await self.hang_up()
        return np.concatenate(got)

    async def insist(self, body: bytes) -> dict:
        """Retry until an answer comes, as a client does that must not lose a chunk."""
        while True:
            try:
                status, answer = await self.post(body)
            except (Dropped, ConnectionError, asyncio.IncompleteReadError):
                self.retries += 1
                continue
            assert status in (200, 503), answer
            if status == 200:
                return answer

    async def post(self, body: bytes) -> tuple[int, dict]:
        if self.line is None:
            self.line = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.line
        head = f"POST /sessions/{self.name}/observations HTTP/1.1\r\nhost: localhost\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        whole = head.encode() + body
        fate = self.rng.random()
        if fate < 0.05:
            writer.write(whole[: len(whole) // 2])
        else:
            writer.write(whole)
        if fate < 0.15:
            if fate > 0.1:
                await writer.drain()
            await self.hang_up()
            raise Dropped
        head_lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head_lines.partition("content-length: ")[2].partition("\r\n")[0])
        content = await reader.readexactly(length)
        if fate > 0.95:
            await self.hang_up()
            raise Dropped  # it was answered, and the client never knew
        return int(head_lines.split()[1]), json.loads(content)

    async def hang_up(self) -> None:
        if self.line is not None:
            self.line[1].close()
            with contextlib.suppress(ConnectionError):
                await self.line[1].wait_closed()
            self.line = None


async def swarm(service, artifact, clients: int, steps: int = 40) -> int:
    """Stream every client's series and compare it with its one-pass run. Returns how many retries it took."""
    wholes = [series("sine", steps, seed) for seed in range(clients)]
    fleet = [Client(service.port, f"s{i}", i) for i in range(clients)]
    streams = (
        client.stream(whole, cuts(steps, i))
        for i, (client, whole) in enumerate(zip(fleet, wholes, strict=True))
    )
    async with asyncio.timeout(60):
        streamed = await asyncio.gather(*streams, return_exceptions=True)
    for client in fleet:
        await client.hang_up()
    for whole, got in zip(wholes, streamed, strict=True):
        if isinstance(got, BaseException):
            raise got
        equal(got, one_pass(artifact, whole))
    for i in range(0, clients, 7):
        assert (await service.session(f"s{i}"))["position"] == steps
    return sum(client.retries for client in fleet)


@over_sockets
@pytest.mark.parametrize("resident", [2048, 64])
async def test_two_hundred_clients_with_retries_and_dropped_connections_lose_and_repeat_nothing(
    start, artifacts, resident
):
    async with start(resident_sessions=resident, batch_sessions=64) as service:
        retries = await swarm(service, artifacts["sine"], clients=200)
        assert retries > 100
        assert len(service.engine.residents) == 200


@pytest.mark.parametrize("way", [TextSocket], indirect=True)
async def test_two_hundred_sockets_at_once_are_each_answered_as_if_alone(start, artifacts):
    wholes = [series("sine", 30, seed) for seed in range(200)]
    async with start() as service:
        streams = (service.stream(f"s{i}", whole, cuts(30, i)) for i, whole in enumerate(wholes))
        for whole, got in zip(wholes, await asyncio.gather(*streams), strict=True):
            equal(got, one_pass(artifacts["sine"], whole))


@pytest.mark.parametrize("way", [HotRoute], indirect=True)
@pytest.mark.parametrize("store", ["memory"], indirect=True)
class TestTheCheckerNotices:
    async def test_a_service_that_applies_retries_again(self, start, artifacts, monkeypatch):
        async with start() as service:
            submit = service.engine.submit

            def forgetful(job):
                for claim in ("at", "epoch", "epochs"):
                    if hasattr(job, claim):
                        setattr(job, claim, None)
                submit(job)

            monkeypatch.setattr(service.engine, "submit", forgetful)
            with pytest.raises(AssertionError):
                await swarm(service, artifacts["sine"], clients=20)

    async def test_a_service_that_loses_a_chunk_but_says_it_was_applied(self, start, artifacts, monkeypatch):
        async with start() as service:
            one = service.engine.residents.models.current["sine"].forecaster
            advance, calls = one.advance, []

            def losing(observations, lengths, carries):
                predictions, moved = advance(observations, lengths, carries)
                calls.append(1)
                return predictions, carries.copy() if len(calls) == 10 else moved

            monkeypatch.setattr(one, "advance", losing)
            with pytest.raises(AssertionError):
                await swarm(service, artifacts["sine"], clients=20)

    async def test_a_service_that_confuses_two_sessions_of_a_wave(self, start, artifacts, monkeypatch):
        async with start() as service:
            one = service.engine.residents.models.current["sine"].forecaster
            advance = one.advance

            def confusing(observations, lengths, carries):
                predictions, moved = advance(observations, lengths, carries)
                return predictions, np.roll(moved, 1, axis=0)

            monkeypatch.setattr(one, "advance", confusing)
            with pytest.raises(AssertionError):
                await swarm(service, artifacts["sine"], clients=20)

    async def test_a_service_whose_replays_are_of_another_chunk(self, start, artifacts, monkeypatch):
        def wrong(rows, i, place):
            return {"predictions": rows.headers["answer"][i, place][None] + 0.01}

        monkeypatch.setattr(recent_answers, "answer", wrong)
        async with start() as service:
            with pytest.raises((AssertionError, ValueError)):
                await swarm(service, artifacts["sine"], clients=40)


def test_the_tolerance_is_finer_than_what_a_lost_observation_shows(artifacts):
    whole = series("sine", 60)
    without = one_pass(artifacts["sine"], np.delete(whole, 30, axis=0))
    shown = np.abs(one_pass(artifacts["sine"], whole)[31:] - without[30:])
    assert shown[:8].max() > 1000 * TOLERANCE
