"""Plain requests that go by the batch are answered as by a server that reads each connection by itself.

The same bytes go to a service as it is, and to one whose connections never use the inbox.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from random import Random
from typing import Any

import pytest

from app.jobs.jobs import Create
from app.protocols import plain_reading
from app.protocols.plain_reading import Plain
from tests.helpers import request_grammar as grammar
from tests.helpers.faults import inbox_held
from tests.helpers.locked import Keys
from tests.helpers.services import starter
from tests.helpers.ways import HotRoute
from tests.helpers.whole_server import CLIENT_REQUEST_ID, Client, Observer, Service, answers, assert_alike

pytestmark = pytest.mark.anyio

CONNECTIONS = 5
WIDTHS = {"sine": 1, "pair": 3, "partial": 2, "adaptive": 2}
TENANTS = ["acme", "other"]


@pytest.fixture
def started(zoo_folder, clock, tmp_path, monkeypatch):
    """Start a service over this store, with the inbox or without."""

    @asynccontextmanager
    async def start(store: str, name: str, *, inbox: bool, **changes: Any) -> AsyncIterator[Service]:
        folder = tmp_path / name
        folder.mkdir()
        if store == "redis":
            raise ValueError("its state is not in the folder")
        with pytest.MonkeyPatch.context() as patch:
            observer = Observer()
            observer.install(patch)
            if not inbox:
                patch.setattr(plain_reading, "MAX_MISSES", 0)
            async with starter(HotRoute, store, zoo_folder, clock, folder, monkeypatch)(**changes) as way:
                service = Service(way, observer)
                yield service
                for client in observer.clients.values():
                    if client.transport is not None:
                        client.transport.abort()

    return start


class Script:
    """Random requests of several clients, and what a service does with them.

    What it sends depends on its seed, and on positions and epochs that it has been answered.
    """

    def __init__(self, service: Service, seed: int, keys: Keys | None) -> None:
        self.service = service
        self.rng = Random(seed)
        self.keys = keys
        self.tenants = TENANTS if keys is not None else [""]
        self.heads = [self.rng.choice(grammar.HEADS[:2] + grammar.HEADS[3:]) for _ in range(CONNECTIONS)]
        self.clients: list[Client] = []
        self.read = [0] * CONNECTIONS  # bytes of each client that are compared already
        self.position: dict[tuple[str, str], int] = {}
        self.model: dict[tuple[str, str], str] = {}
        self.last: dict[tuple[str, str], str] = {}  # the newest body that was applied
        self.trace: list[Any] = []
        self.for_inbox = 0  # requests that the inbox must take: whole, alone, on a connection at rest

    def tenant(self, i: int) -> str:
        return self.tenants[i % len(self.tenants)]

    async def run(self, rounds: int) -> None:
        for tenant in self.tenants:
            for model in WIDTHS:
                for k in range(3):
                    session = f"{model}-{k}"
                    level = 0.8 if model == "adaptive" and k == 0 else None
                    name = f"{tenant}/{session}" if tenant else session
                    await self.service.engine.ask(Create(name, model, level=level))
                    self.model[tenant, session] = model
        self.clients = [await self.service.connect() for _ in range(CONNECTIONS)]
        for _ in range(rounds):
            await self.round()
        for i in range(CONNECTIONS):  # whatever was left on a connection
            await self.send(i, [self.request(i, "end", '{"observations":[0.5]}')])
            await self.compare()

    async def round(self) -> None:
        rng = self.rng
        if rng.random() < 0.1:
            await self.damaged_round(rng.randrange(CONNECTIONS))
            return
        chosen = rng.sample(range(CONNECTIONS), rng.randint(1, CONNECTIONS))
        free = {tenant: [s for t, s in self.model if t == tenant] + ["new", "end"] for tenant in self.tenants}
        for sessions in free.values():
            rng.shuffle(sessions)
        together = inbox_held(self.service.engine) if rng.random() < 0.6 else nullcontext()
        with together:
            for i in chosen:
                sessions = free[self.tenant(i)]
                # A whole request is applied though its client hangs up, unless it waits for its share.
                if rng.random() < 0.03 and self.keys is None:
                    await self.send(i, [self.ordinary(i, sessions.pop())])
                    await self.hang_up(i)
                else:
                    await self.send(i, self.pieces(i, sessions.pop(), sessions.pop()))
        await self.compare()

    async def send(self, i: int, pieces: list[bytes]) -> None:
        for piece in pieces:
            await self.service.send(self.clients[i], piece)

    async def damaged_round(self, i: int) -> None:
        payload = json.loads(self.body(i, "sine-0"))
        payload.pop("epoch", None)  # drawn by each service, so the damage would not be the same
        data = grammar.damaged(self.rng, self.request(i, "sine-0", json.dumps(payload)))
        await self.send(i, [data])
        await self.compare()
        await self.hang_up(i)  # it may wait for the rest
        await self.compare()

    async def hang_up(self, i: int) -> None:
        client = self.clients[i]
        await self.service.hang_up(client)
        self.clients[i], self.read[i] = await self.service.connect(), 0

    # What is sent.

    def request(self, i: int, session: str, body: str, *more: str) -> bytes:
        before, after = self.heads[i]
        if self.keys is not None:
            more = (*more, f"Authorization: Bearer {self.keys.token[self.tenant(i)]}")
        after = after.replace("Authorization: Bearer co_0123456789abcdef", "")
        encoded = body.encode()
        fields = [*before.split("|"), f"Content-Length: {len(encoded)}", *after.split("|"), *more]
        lines = [f"POST /sessions/{session}/observations HTTP/1.1", *filter(None, fields)]
        if not any(line.lower().startswith("host:") for line in lines):
            lines.append("Host: localhost")
        return "\r\n".join([*lines, "", ""]).encode() + encoded

    def pieces(self, i: int, session: str, other: str) -> list[bytes]:
        """A request or two in pieces."""
        rng = self.rng
        first, second = self.ordinary(i, session), self.ordinary(i, session)
        draw = rng.random()
        if draw < 0.6:
            self.for_inbox += self.clients[i].server._plain is Plain.NEXT
            return [first]
        if draw < 0.68:  # the second comes in while the first is in the inbox, or waits for its answer
            return [first, self.ordinary(i, other)]
        if draw < 0.74:
            return [first + second]
        if draw < 0.82:
            cut = rng.randrange(1, len(first))
            return [first[:cut], first[cut:]]
        if draw < 0.87:
            cut = rng.randrange(1, len(second))
            return [first + second[:cut], second[cut:]]
        if draw < 0.92:
            get = f"GET /sessions/{session} HTTP/1.1\r\nhost: localhost\r\n"
            if self.keys is not None:
                get += f"authorization: Bearer {self.keys.token[self.tenant(i)]}\r\n"
            return rng.choice([[first, get.encode() + b"\r\n"], [get.encode() + b"\r\n", first]])
        if draw < 0.97:
            return [self.request(i, session, self.odd_body(i, session))]
        more = rng.choice(
            [
                f"X-Request-Id: {CLIENT_REQUEST_ID}",
                "Expect: 100-continue",
                "Connection: close",
                "Upgrade: h2c",
            ]
        )
        return [self.request(i, session, self.body(i, session), more)]

    def ordinary(self, i: int, session: str) -> bytes:
        return self.request(i, session, self.body(i, session))

    def body(self, i: int, session: str) -> str:
        """A body of the plain form: right, behind, or wrong in what it says."""
        rng = self.rng
        key = self.tenant(i), session
        if key in self.last and rng.random() < 0.15:
            return self.last[key]  # again
        width = WIDTHS[self.model.get(key, "sine")] if rng.random() < 0.96 else 2
        steps = rng.choice([1] * 12 + [2, 5, 50])
        rows: list[Any] = [[self.number() for _ in range(width)] for _ in range(steps)]
        if width == 1 and rng.random() < 0.4:
            rows = [row[0] for row in rows]
        payload: dict[str, Any] = {"observations": rows}
        position = self.position.get(key, 0)
        if rng.random() < 0.7:
            payload["at"] = position if rng.random() < 0.93 else rng.choice([position + 1, 0, 2**63 - 1])
        if rng.random() < 0.4:
            epoch = self.service.epoch(f"{key[0]}/{session}")
            payload["epoch"] = epoch if rng.random() < 0.93 else "0000000000000003"
        return json.dumps(payload)

    def number(self) -> float:
        rng = self.rng
        return rng.choice([rng.gauss(0, 1)] * 20 + [0.0, -0.0, 1e-30, rng.gauss(0, 1e5)])

    def odd_body(self, i: int, session: str) -> str:
        observations = json.loads(self.body(i, session))["observations"]
        return self.rng.choice(
            [
                json.dumps({"observations": observations, "unknown": 1}),
                json.dumps({"observations": observations, "horizon": 3}),
                json.dumps({"observations": observations, "model": "pair"}),
                json.dumps({"observations": [None]}),
                '{"observations":[NaN]}',
                '{"observations":[]}',
                '{"observations":[1e39]}',
                '{"observations":[3e38]}',
                json.dumps({"observations": [0.5] * 70}),
                "{",
                "",
            ]
        )

    # What is answered.

    async def compare(self) -> None:
        """Note what every client has been answered since the last call."""
        await self.service.quiet(self.clients)
        for i, client in enumerate(self.clients):
            found = answers(client.received[self.read[i] :])
            self.read[i] = len(client.received)
            for answer in found:
                self.note(self.tenant(i), answer)
                self.trace.append((i, self.service.comparable(self.tenant(i), answer)))
            if client.closed or client.lost:
                self.trace.append((i, "closed"))
                self.clients[i], self.read[i] = await self.service.connect(), 0

    def note(self, tenant: str, answer: Any) -> None:
        if answer.status == 200 and "position" in answer.body:
            self.position[tenant, answer.body["session"]] = answer.body["position"]


async def play(started, store: str, seed: int, rounds: int, keys: Keys | None, **changes: Any) -> list[Any]:
    """Trace, sessions, and counts of plain requests, of the service with the inbox and without."""
    runs = []
    for inbox in (True, False):
        async with started(store, f"inbox-{inbox}", inbox=inbox, **changes) as service:
            script = Script(service, seed, keys)
            await script.run(rounds)
            runs.append((script, service.sessions(), service.observer.plain))
    return runs


def check(runs: list[Any]) -> None:
    (first, sessions, plain), (second, expected, never) = runs
    assert never == 0
    assert plain >= first.for_inbox > 30
    for k, (answer, other) in enumerate(zip(first.trace, second.trace, strict=False)):
        assert_alike(answer, other, f"answer {k}: {answer} {other}")
    assert len(first.trace) == len(second.trace)
    assert_alike(sessions, expected, "sessions")
    statuses = {entry[1][0] for entry in first.trace}
    assert {200, 400, 409, 422} <= statuses


@pytest.mark.parametrize(("seed", "store"), [(0, "memory"), (1, "memory"), (2, "memory"), (0, "sqlite")])
async def test_the_same_bytes_are_answered_alike_with_the_inbox_and_without(started, store, seed):
    check(await play(started, store, seed, 120, None))


@pytest.mark.parametrize("seed", range(2))
async def test_the_same_bytes_of_two_tenants_are_answered_alike(started, seed, tmp_path):
    keys = Keys(tmp_path)
    for tenant in TENANTS:
        keys.add(tenant)
    check(await play(started, "memory", seed, 120, keys, api_keys_file=keys.path, tenant_share=3))
