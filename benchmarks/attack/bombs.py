"""Single requests of at most 8 MiB that aim at the server's memory, its event loop, or everybody's batch."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.attack import bodies
from benchmarks.attack.http import connect, observations, request
from benchmarks.attack.result import Result, Run, observed
from benchmarks.attack.server import Server, serving
from benchmarks.dialects import HOST


@dataclass(frozen=True)
class Bomb:
    """One request."""

    name: str
    method: str
    path: str
    body: Callable[[], bytes]
    kind: str = bodies.JSON
    headers: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


BOMBS = [
    Bomb("JSON: a future of empty strings", "POST", "/sessions/nope/forecast",
         lambda: bodies.empty_strings("future", 10**7)),
    Bomb("JSON: unknown fields", "POST", "/sessions", lambda: bodies.unknown_fields(10**6)),
    Bomb("JSON: nested lists", "POST", "/sessions/a/observations", lambda: bodies.nested(10**7)),
    Bomb("JSON: a chunk of zeros", "POST", "/sessions/a/observations", lambda: bodies.numbers(10**7)),
    Bomb("JSON: bulk of nulls", "POST", "/observations", lambda: bodies.bulk_nulls(10_000, 51)),
    Bomb("JSON: bulk of errors", "POST", "/observations", lambda: bodies.bulk_errors(10_000)),
    Bomb("JSON: /v2 parameters", "POST", "/v2/models/bench/infer", lambda: bodies.v2_parameters(10**6)),
    Bomb("gzip: zeros, /v2", "POST", "/v2/models/bench/infer", lambda: bodies.gzipped_zeros(4 * 2**30),
         headers="content-encoding: gzip\r\n"),
    Bomb("gzip: zeros, chunk", "POST", "/sessions/a/observations", lambda: bodies.gzipped_zeros(4 * 2**30),
         headers="content-encoding: gzip\r\n"),
    Bomb("Arrow: the first request", "POST", "/observations",
         lambda: bodies.arrow(10, 0, "plain"), bodies.ARROW),
    Bomb("Arrow: dictionary of one long name", "POST", "/observations",
         lambda: bodies.arrow(10_000, 1_100_000, "dictionary"), bodies.ARROW),
    Bomb("Arrow: run of one long name", "POST", "/observations",
         lambda: bodies.arrow(10_000, 1_100_000, "run-end"), bodies.ARROW),
    Bomb("state file: empty tensors", "PUT", "/sessions/a/state",
         lambda: bodies.state_of_empty_tensors(150_000), bodies.STATE),
    Bomb("state file: metadata", "PUT", "/sessions/a/state",
         lambda: bodies.state_of_metadata(10**6), bodies.STATE),
]  # fmt: skip


async def bombs(run: Run) -> AsyncIterator[Result]:
    """Each request on a server of its own."""
    for bomb in BOMBS[: max(3, run.scaled(len(BOMBS)))]:
        yield await _bomb(run, bomb)
    yield await _grpc_parameters(run)


async def state_files(run: Run) -> AsyncIterator[Result]:
    """State files whose fields are extreme: none may spoil other sessions' chunks."""
    changes = [
        {"ttl_seconds": "1e305"},
        {"ttl_seconds": "1e15"},
        {"ttl_seconds": "1e-300"},
        {"created": "99999999999", "updated": "99999999999"},
        {"position": str(2**63 - 1), "since_reset": "0"},
    ]
    for change in changes[: max(2, run.scaled(len(changes)))]:
        yield await _state_file(run, change)


async def _bomb(run: Run, bomb: Bomb) -> Result:
    body = await asyncio.to_thread(bomb.body)
    async with (
        serving(run.target, run.new_folder(), **bomb.settings) as server,
        observed(run, server) as view,
    ):
        message = request(bomb.method, bomb.path, body, kind=bomb.kind)
        message = message.replace(b"host: localhost\r\n", b"host: localhost\r\n" + bomb.headers.encode(), 1)
        outcome = await _send(server, message)
    return view.result(bomb.name, f"{bomb.method} of {len(body) / 2**20:.1f} MiB", outcome)


async def _send(server: Server, message: bytes) -> str:
    try:
        async with connect(server.port) as connection:
            sending = asyncio.create_task(connection.send(message))
            status, _ = await connection.answer()
            sending.cancel()
            return f"answered {status}"
    except TimeoutError:
        return "no answer"
    except (OSError, asyncio.IncompleteReadError):
        return "connection closed"


async def _state_file(run: Run, change: dict[str, str]) -> Result:
    folder = run.new_folder()
    store = f"sqlite:{folder / 'store.sqlite'}"
    async with (
        serving(run.target, folder, store=store) as server,
        observed(run, server) as view,
        connect(server.port) as connection,
    ):
        await connection.send(observations("donor", 0.1))
        await connection.answer()
        _, state = await connection.request("GET", "/sessions/donor/state")
        body = bodies.change_state(state, **change)
        message = request("PUT", "/sessions/bomb/state", body, kind=bodies.STATE)
        # The store writes each of them in one batch with the bystander's chunk.
        puts = Counter([await _send(server, message) for _ in range(run.scaled(200))])
        listed = await _send(server, request("GET", "/sessions?detail=true"))
    field = ", ".join(f"{name}={value}" for name, value in change.items())
    counts = ", ".join(f"{count} x {name}" for name, count in puts.most_common())
    outcome = f"PUT: {counts}; the list: {listed}"
    worked = listed != "answered 200"
    attack, sent = f"state file: {field}", f"{puts.total()} PUTs"
    return view.result(attack, sent, outcome, worked=worked, bounded=False)


async def _grpc_parameters(run: Run) -> Result:
    body = bodies.grpc_parameters(200_000)
    folder = run.new_folder()
    async with serving(run.target, folder, grpc_port="{grpc_port}") as server, observed(run, server) as view:
        outcome = await asyncio.to_thread(_call_grpc, server.grpc_port, body)
    return view.result("gRPC: 200,000 parameters", f"ModelInfer of {len(body) / 2**20:.1f} MiB", outcome)


def _call_grpc(port: int, body: bytes) -> str:
    import grpc

    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"{HOST}:{port}", options=options) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
        try:
            call(body, timeout=100)
        except grpc.RpcError as error:
            return f"answered {error.code().name}"
    return "answered OK"
