"""WebSocket messages cut into very many fragments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from benchmarks.attack.http import CONTINUATION, TEXT, frame, parse, websocket
from benchmarks.attack.result import Result, Run, observed
from benchmarks.attack.server import Server, serving

FRAGMENTS = 60_000
END = b'"observations":[0.1]}'


async def fragments(run: Run) -> AsyncIterator[Result]:
    """A text message in 60,000 empty fragments, and one in fragments of a byte."""
    count = run.scaled(FRAGMENTS)
    async with serving(run.target, run.new_folder()) as server:
        yield await _fragments(run, server, "empty WebSocket fragments", b"{", [b""] * count)
        yield await _fragments(run, server, "WebSocket fragments of one byte", b"{", [b" "] * count)


async def _fragments(run: Run, server: Server, attack: str, first: bytes, payloads: list[bytes]) -> Result:
    frames = [frame(TEXT, first, final=False)]
    frames += [frame(CONTINUATION, payload, final=False) for payload in payloads]
    frames.append(frame(CONTINUATION, END))
    async with observed(run, server) as view:
        outcome = "answered"
        try:
            async with websocket(server.port, "/sessions/attacker/stream") as socket:
                await socket.send_frames(frames)
                opcode, payload = await socket.receive()
                if opcode == 8:
                    outcome = f"closed with {int.from_bytes(payload[:2], 'big')}"
                elif "predictions" not in (parse(payload) or {}):
                    outcome = "refused"
        except (OSError, asyncio.IncompleteReadError):
            outcome = "connection closed"
    sent = f"1 message in {len(frames):,} frames, {sum(map(len, frames)) / 1e3:,.0f} kB"
    return view.result(attack, sent, outcome)
