"""API keys: one for the empty tenant, and one that is removed while its connections are open."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from benchmarks.attack import bodies
from benchmarks.attack.http import TEXT, connect, frame, parse, websocket
from benchmarks.attack.result import Result, Run, observed
from benchmarks.attack.server import KEY_SECONDS, Server, add_key, carryover, serving
from benchmarks.dialects import HOST

ALLOWED_SECONDS = 2.0
"""From the removal of a key until nothing is served with it: a second, and another for a busy machine."""
WATCHED_SECONDS, PAUSE_SECONDS = 4.0, 0.02
CHUNK = b'{"observations":[0.5]}'

Send = Callable[[], Awaitable[bool]]
"""Sends a chunk, and returns whether it was served."""


async def keys(run: Run) -> AsyncIterator[Result]:
    """A key for the empty tenant, and a removed key over HTTP, a WebSocket and a gRPC stream."""
    yield await _empty_tenant(run)
    yield await _removed_key(run)


async def _empty_tenant(run: Run) -> Result:
    folder = run.new_folder()
    file = folder / "keys.json"
    async with serving(run.target, folder, keys=True) as server, observed(run, server) as view:
        status, output = await carryover(
            run.target, "keys", "add", "spy", "--tenant", "", "--role", "read", "--file", str(file)
        )
        tokens = [word for word in output.split() if word.startswith("cyo_")]
        names: list[str] = []
        if tokens:
            await asyncio.sleep(KEY_SECONDS)
            async with connect(server.port) as connection:
                _, body = await connection.request("GET", "/sessions?detail=true", token=tokens[0])
            names = [entry["session"] for entry in (parse(body) or {}).get("sessions", ())]
        else:
            tenants = [entry["tenant"] for entry in json.loads(file.read_text())["keys"]]
            outcome = f"no key was made: exit status {status}; tenants of the file: {', '.join(tenants)}"
    if tokens:
        outcome = f"a key was made; it lists {len(names)} sessions of other tenants"
    return view.result(
        "key for the empty tenant", "keys add --tenant '', then a list", outcome,
        worked=bool(tokens), bounded=False,
    )  # fmt: skip


async def _removed_key(run: Run) -> Result:
    folder = run.new_folder()
    file = folder / "keys.json"
    async with serving(run.target, folder, keys=True, grpc_port="{grpc_port}") as server:
        token = await add_key(run.target, folder, "leaver")
        await asyncio.sleep(KEY_SECONDS)
        async with observed(run, server) as view, AsyncExitStack() as stack:
            ways = {
                "HTTP": await stack.enter_async_context(_http(server, token)),
                "WebSocket": await stack.enter_async_context(_websocket(server, token)),
                "gRPC stream": await stack.enter_async_context(_grpc_stream(server, token)),
            }
            served = {name: asyncio.create_task(_last_served(send)) for name, send in ways.items()}
            before = file.stat().st_mtime
            await carryover(run.target, "keys", "remove", "leaver", "--file", str(file))
            removed = file.stat().st_mtime
            if removed == before:
                raise RuntimeError("the key was not removed")
            await asyncio.sleep(max(0.0, removed + WATCHED_SECONDS - time.time()))
            running = {name: not task.done() for name, task in served.items()}
            for task in served.values():
                task.cancel()
            seconds = {name: max(0.0, await task - removed) for name, task in served.items()}
    outcome = "after the removal: " + ", ".join(
        f"{name} {'still served after' if running[name] else 'served until'} {after:.1f} s"
        for name, after in seconds.items()
    )
    worked = any(running.values()) or max(seconds.values()) > ALLOWED_SECONDS
    sent = "a chunk every 20 ms over each open connection, while the key is removed"
    return view.result("removed key", sent, outcome, worked=worked, bounded=False)


async def _last_served(send: Send) -> float:
    """The time at which a chunk was last served, until one is refused or this task is cancelled.

    Raises
    ------
    RuntimeError
        None was served.
    """
    last = 0.0
    try:
        while await send():
            last = time.time()
            await asyncio.sleep(PAUSE_SECONDS)
    except (OSError, EOFError, asyncio.CancelledError):
        pass
    if not last:
        raise RuntimeError("the key was not accepted")
    return last


@asynccontextmanager
async def _http(server: Server, token: str) -> AsyncIterator[Send]:
    async with connect(server.port) as connection:

        async def send() -> bool:
            status, _ = await connection.request("POST", "/sessions/http/observations", CHUNK, token)
            return status == 200

        yield send


@asynccontextmanager
async def _websocket(server: Server, token: str) -> AsyncIterator[Send]:
    async with websocket(server.port, "/sessions/socket/stream", token) as socket:

        async def send() -> bool:
            await socket.send_frames([frame(TEXT, CHUNK)])
            opcode, payload = await socket.receive()
            return opcode == TEXT and "predictions" in (parse(payload) or {})

        yield send


@asynccontextmanager
async def _grpc_stream(server: Server, token: str) -> AsyncIterator[Send]:
    import grpc

    async with grpc.aio.insecure_channel(f"{HOST}:{server.grpc_port}") as channel:
        method = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", None, None)
        call: Any = method(metadata=[("authorization", f"Bearer {token}")])

        async def send() -> bool:
            try:
                await call.write(bodies.grpc_chunk(7))
                answer = await call.read()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return False
            # A ModelStreamInferResponse begins with its second field, unless it holds an error message.
            return answer is not grpc.aio.EOF and answer[:1] == b"\x12"

        yield send
        call.cancel()
