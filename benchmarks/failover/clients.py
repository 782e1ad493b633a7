"""Clients that never lose count: each has a session, sends one chunk at a time with `at`, and retries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.failover.checker import Event

TRY_SECONDS = 2.0  # that one try may take
PAUSE_SECONDS = 0.02  # between a try that failed and the next
RESET_EVERY = 40  # chunks
RETRY_SECONDS = 30.0  # that one chunk may take, all tries together


@dataclass
class Crowd:
    """Clients of one address, and the history that they write.

    Parameters
    ----------
    port : of the balancer
    think_seconds : between an answer and the next chunk
    """

    port: int
    clients: int
    think_seconds: float = 0.02
    prefix: str = "s"
    history: list[Event] = field(default_factory=list)
    acknowledged: dict[str, float] = field(default_factory=dict)  # when each session was answered last
    retries: int = 0
    _stop: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Let them send."""
        for i in range(self.clients):
            self._tasks.append(asyncio.create_task(_Client(self, f"{self.prefix}{i}").run()))

    async def all_answered_since(self, moment: float, seconds: float = 60.0) -> float:
        """How long it took, from a moment, until every session had an answer to what it sent after it.

        Raises
        ------
        TimeoutError
        """
        async with asyncio.timeout(seconds):
            while len(self.acknowledged) < self.clients or min(self.acknowledged.values()) < moment:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return max(self.acknowledged.values()) - moment

    async def stop(self) -> None:
        """Let each finish what it is at, and tell where its session is in the end."""
        self._stop = True
        await asyncio.gather(*self._tasks)

    @property
    def stopped(self) -> bool:
        return self._stop


class _Client:
    def __init__(self, crowd: Crowd, session: str) -> None:
        self.crowd = crowd
        self.session = session
        self.position = 0
        self._random = random.Random(session)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        seq = 0
        while not self.crowd.stopped:
            if seq and seq % RESET_EVERY == 0:
                await self._until_done(seq, "reset", [])
            else:
                steps = range(self._random.randint(1, 3))
                numbers = [math.sin((self.position + i) / 9 + len(self.session)) for i in steps]
                await self._until_done(seq, "chunk", numbers)
            seq += 1
            await asyncio.sleep(self.crowd.think_seconds * self._random.random() * 2)
        await self._final()
        await self._hang_up()

    async def _until_done(self, seq: int, op: str, numbers: list[float]) -> None:
        body: dict[str, Any] = {"at": self.position}
        path = f"/sessions/{self.session}/reset"
        if op == "chunk":
            body["observations"] = numbers
            path = f"/sessions/{self.session}/observations"
        first = time.monotonic()
        while (began := time.monotonic()) < first + RETRY_SECONDS:
            event = {"session": self.session, "seq": seq, "op": op, **body, "t": round(began, 4)}
            event |= await self._try("POST", path, body, op)
            self.crowd.history.append(event)
            if event["outcome"] in ("applied", "replayed"):
                self.position = event["position"]
                self.crowd.acknowledged[self.session] = began
                return
            if event["outcome"] == "refused":
                raise AssertionError(f"{self.session} was refused at {self.position}: {event['status']}")
            self.crowd.retries += 1
            await asyncio.sleep(PAUSE_SECONDS)
        raise TimeoutError(f"{self.session} had no answer for {RETRY_SECONDS:g} s")

    async def _final(self) -> None:
        for _ in range(round(RETRY_SECONDS / PAUSE_SECONDS)):
            result = await self._try("GET", f"/sessions/{self.session}", None, "final")
            if result["outcome"] == "applied":
                line = {"session": self.session, "op": "final", "position": result["position"]}
                self.crowd.history.append(line)
                return
            await asyncio.sleep(PAUSE_SECONDS)

    async def _try(self, method: str, path: str, body: dict[str, Any] | None, op: str) -> Event:
        try:
            async with asyncio.timeout(TRY_SECONDS):
                status, answer = await self._request(method, path, body)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            await self._hang_up()
            return {"outcome": "unknown", "status": type(error).__name__}
        if status >= 500:
            return {"outcome": "unknown", "status": status}
        if status >= 400:
            return {"outcome": "refused", "status": status, "position": answer.get("position")}
        result = {"outcome": "applied", "position": answer["position"], "status": status}
        if op == "chunk":
            result["outcome"] = "replayed" if answer["replayed"] else "applied"
            result["predictions"] = _flat(answer["predictions"])
        return result

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.crowd.port)
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        status = int(lines[0].split(" ")[1])
        fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        length = fields.get("content-length")
        text = await (reader.readexactly(int(length)) if length is not None else reader.read())
        if length is None or fields.get("connection") == "close":
            await self._hang_up()
        return status, json.loads(text) if "json" in fields.get("content-type", "") else {}

    async def _hang_up(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _flat(rows: Sequence[Any]) -> list[float]:
    return [row[0] if isinstance(row, list) else row for row in rows]
