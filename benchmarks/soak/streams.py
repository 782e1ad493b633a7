"""The actions of the streams: every route, with retries, each answer checked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from benchmarks.dialects import HOST
from benchmarks.soak.checks import Checker, Stream, WrongAnswer
from benchmarks.soak.service import RETRIED, TENANTS, Service

TTL_SECONDS = 3.0


class Traffic:
    """Streams that run at the same time, and pause between two actions when they are held."""

    def __init__(self, service: Service, checker: Checker, draw: random.Random, counts: Counter[str]) -> None:
        self.service = service
        self.checker = checker
        self.draw = draw
        self.counts = counts
        self.running = asyncio.Event()
        self.busy = 0

    async def run_streams(self) -> None:
        """Run one stream after another, each with a random number of actions."""
        while True:
            stream = Stream(
                f"s{self.draw.getrandbits(40):x}", self.draw.choice(TENANTS), self.checker.zero_carry()
            )
            expires = self.draw.random() < 0.2
            await self.step(self.create, stream, expires)
            if expires:
                await self.step(self.abandon, stream)
                continue
            for _ in range(self.draw.randint(1, 40)):
                await self.step(self.draw.choices(self.actions, self.odds)[0], stream)
            await self.step(self.delete, stream)

    @property
    def actions(self) -> list[Callable[..., Awaitable[None]]]:
        return [
            self.send_http,
            self.send_bulk,
            self.send_v2,
            self.send_socket,
            self.reset,
            self.fork,
            self.forecast,
            self.move,
        ]

    odds = (40, 15, 10, 10, 5, 5, 10, 5)

    async def step(self, action: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        await self.running.wait()
        self.busy += 1
        try:
            await action(*arguments)
            self.counts[action.__name__.replace("_", " ")] += 1
        finally:
            self.busy -= 1

    async def create(self, stream: Stream, expires: bool) -> None:
        body = {"id": stream.name} | ({"ttl_seconds": TTL_SECONDS} if expires else {})
        response = await self.service.request(stream.tenant, "POST", "/sessions", (201, 409), json=body)
        stream.epoch = response.json().get("epoch")

    async def send_http(self, stream: Stream) -> None:
        rows = self.checker.draw_observations(stream)
        body = {"observations": rows.tolist(), "at": stream.position, "epoch": stream.epoch}
        path = f"/sessions/{stream.name}/observations"
        payload = (await self.service.request(stream.tenant, "POST", path, (200,), json=body)).json()
        if self.draw.random() < 0.1:
            again = (await self.service.request(stream.tenant, "POST", path, (200,), json=body)).json()
            if not again["replayed"] or again["predictions"] != payload["predictions"]:
                raise WrongAnswer(f"a retry was not replayed: {again}")
        self.checker.compare(stream, rows, payload["predictions"], payload["position"])

    async def abandon(self, stream: Stream) -> None:
        """Send one more chunk, and then let the session expire; it may have expired already."""
        rows = self.checker.draw_observations(stream)
        body = {"observations": rows.tolist(), "at": stream.position, "epoch": stream.epoch}
        path = f"/sessions/{stream.name}/observations"
        response = await self.service.request(stream.tenant, "POST", path, (200, 410), json=body)
        if response.status_code == 200:
            answer = response.json()
            self.checker.compare(stream, rows, answer["predictions"], answer["position"])

    async def send_bulk(self, stream: Stream) -> None:
        rows = self.checker.draw_observations(stream)
        body = {"sessions": [stream.name], "observations": [rows[:, None].tolist()], "at": [stream.position]}
        payload = (
            await self.service.request(stream.tenant, "POST", "/observations", (200,), json=body)
        ).json()
        if payload["errors"]:
            if payload["errors"]["0"]["status"] not in RETRIED:
                raise WrongAnswer(f"bulk: {payload['errors']}")
            return
        self.checker.compare(stream, rows, np.ravel(payload["predictions"]).tolist(), payload["positions"][0])

    async def send_v2(self, stream: Stream) -> None:
        rows = self.checker.draw_observations(stream)
        tensor = {
            "name": "observations",
            "datatype": "FP32",
            "shape": [1, len(rows), 1],
            "data": rows.tolist(),
        }
        parameters = {"sequence_id": stream.name, "at": stream.position}
        body = {"inputs": [tensor], "parameters": parameters}
        payload = (
            await self.service.request(stream.tenant, "POST", "/v2/models/bench/infer", (200,), json=body)
        ).json()
        output = next(tensor for tensor in payload["outputs"] if tensor["name"] == "predictions")
        self.checker.compare(stream, rows, output["data"], stream.position + len(rows))

    async def send_socket(self, stream: Stream) -> None:
        """Send three chunks over a socket. Chunks that were not answered when it closed are sent again."""
        chunks = [self.checker.draw_observations(stream) for _ in range(3)]
        starts = np.cumsum([stream.position, *map(len, chunks)]).tolist()
        done = 0
        while done < len(chunks):
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                url = f"ws://{HOST}:{self.service.port}/sessions/{stream.name}/stream"
                async with connect(url, additional_headers=self.service.headers(stream.tenant)) as socket:
                    await socket.recv()
                    for i in range(done, len(chunks)):
                        await socket.send(json.dumps({"observations": chunks[i].tolist(), "at": starts[i]}))
                    while done < len(chunks):
                        payload = json.loads(await asyncio.wait_for(socket.recv(), 30))
                        if "predictions" not in payload:
                            if payload.get("status") in (*RETRIED, 409):  # 409: the chunk before was refused
                                break
                            raise WrongAnswer(f"socket: {payload}")
                        self.checker.compare(
                            stream, chunks[done], payload["predictions"], payload["position"]
                        )
                        done += 1
            await asyncio.sleep(0 if done == len(chunks) else 0.1)

    async def reset(self, stream: Stream) -> None:
        body = {"at": stream.position}
        await self.service.request(stream.tenant, "POST", f"/sessions/{stream.name}/reset", (200,), json=body)
        stream.carry, stream.last = self.checker.zero_carry(), None

    async def fork(self, stream: Stream) -> None:
        twin = Stream(
            f"{stream.name}f", stream.tenant, stream.carry, stream.position, None, stream.phase, stream.last
        )
        path = f"/sessions/{stream.name}/fork"
        await self.service.request(
            stream.tenant, "POST", path, (201, 409), json={"id": twin.name, "at": stream.position}
        )
        await self.send_bulk(twin)
        await self.delete(twin)

    async def forecast(self, stream: Stream) -> None:
        if stream.last is None:
            return
        path = f"/sessions/{stream.name}/forecast"
        response = await self.service.request(
            stream.tenant, "GET", path, (200,), params={"steps": 10, "flat": "true"}
        )
        expected, carry = [stream.last], stream.carry
        for _ in range(9):
            outputs, carry = self.checker.reference(np.array(expected[-1:]), carry)
            expected.append(float(outputs[-1]))
        self.checker.check_predictions(response.json()["forecast"], expected, stream)

    async def move(self, stream: Stream) -> None:
        state = await self.service.request(stream.tenant, "GET", f"/sessions/{stream.name}/state", (200,))
        await self.delete(stream)
        stream.name += "m"
        path = f"/sessions/{stream.name}/state"
        response = await self.service.request(stream.tenant, "PUT", path, (200,), content=state.content)
        stream.epoch = response.json()["epoch"]

    async def delete(self, stream: Stream) -> None:
        await self.service.request(stream.tenant, "DELETE", f"/sessions/{stream.name}", (204, 404, 410))
