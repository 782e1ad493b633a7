"""Run mixed traffic for a long time, check every prediction, and look for leaks.

    python -m benchmarks.soak --seconds 600 --streams 48

The server has keys, a store on disk, and far fewer resident sessions than there are sessions. The streams of
three tenants send chunks over every route and retry some of them. They reset, fork, forecast, move a session
to another id, let sessions expire, and delete them. Meanwhile the model is reloaded, keys are added and
removed, and the server is stopped and started again under load. Each stream compares every answer with its
own float64 reference.

At quiet points (nothing in flight, no client connected) the program prints what the server process holds:
memory, open files, tasks, sockets, queue. At the end it deletes every session, and the server must hold none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from app.access.keys import Key, generate_key, write
from benchmarks.dialects import HOST
from benchmarks.reference import HIDDEN, TOLERANCE, Reference, write_artifact, write_seeded_weights
from benchmarks.servers import OURS, free_port

TENANTS = ("north", "south", "west")
LONGEST = 60
TTL_SECONDS = 3.0
RETRY_SECONDS = 60.0
LEAK_BYTES = 40 * 2**20
RETRIED = (429, 503)


class WrongAnswer(AssertionError):
    """The server gave a wrong answer."""


@dataclass
class Stream:
    """One session, and the state that its answers are compared with."""

    name: str
    tenant: str
    carry: tuple[torch.Tensor, torch.Tensor]
    position: int = 0
    epoch: str | None = None
    phase: float = 0.0
    last: float | None = None


@dataclass
class Soak:
    """One run: the server, the clients and the results."""

    folder: Path
    seed: int
    port: int = field(default_factory=free_port)
    counts: Counter[str] = field(default_factory=Counter)
    measurements: list[dict[str, float]] = field(default_factory=list)
    worst: float = 0.0

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        weights = self.folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, self.folder / "models" / "soak")
        self.lstm, self.fc = Reference(torch_weights(weights))._modules()
        self.tokens: dict[str, str] = {}
        self.keys: list[Key] = []
        for name, role in (*((tenant, "stream") for tenant in TENANTS), ("admin", "admin")):
            key, self.tokens[name] = generate_key(name, role=role)  # type: ignore[arg-type]
            self.keys.append(key)
        write(self.folder / "keys.json", self.keys)
        self.process: subprocess.Popen[bytes] | None = None
        self.client: httpx.AsyncClient
        self.running = asyncio.Event()
        self.busy = 0

    # The server.

    async def start(self) -> None:
        settings = {
            "PORT": self.port, "HOST": HOST, "MODELS": self.folder / "models",
            "API_KEYS_FILE": self.folder / "keys.json", "STORE": f"sqlite:{self.folder / 'soak.sqlite'}",
            "RESIDENT_SESSIONS": 64, "BATCH_SESSIONS": 32, "LOG_LEVEL": "error", "TOMBSTONES": 1000,
        }  # fmt: skip
        environment = os.environ | {f"CARRYOVER_{name}": str(value) for name, value in settings.items()}
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(OURS, env=environment, stdout=log, stderr=log)  # noqa: ASYNC220
        self.client = httpx.AsyncClient(base_url=f"http://{HOST}:{self.port}", timeout=30)
        await self.until_answered(lambda: self.client.get("/health/ready"), (200,))

    async def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(self.process.wait, 60)
        if status:
            raise WrongAnswer(f"the server stopped with status {status}")

    async def until_answered(
        self, send: Callable[[], Awaitable[httpx.Response]], wanted: tuple[int, ...]
    ) -> httpx.Response:
        """Repeat a request until it is answered: after a lost connection, and after a status 429 or 503."""
        deadline = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < deadline:
            try:
                response = await send()
            except httpx.TransportError:
                self.counts["connections lost"] += 1
            else:
                if response.status_code in wanted:
                    return response
                if response.status_code not in RETRIED:
                    raise WrongAnswer(f"{response.request.url}: {response.status_code} {response.text[:300]}")
                self.counts[f"answered {response.status_code}"] += 1
            await asyncio.sleep(0.05)
        raise WrongAnswer(f"no answer for {RETRY_SECONDS:.0f} s")

    def headers(self, tenant: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[tenant]}"}

    async def request(
        self, stream: Stream, method: str, path: str, wanted: tuple[int, ...], **more: Any
    ) -> httpx.Response:
        headers = self.headers(stream.tenant) | more.pop("headers", {})
        return await self.until_answered(
            lambda: self.client.request(method, path, headers=headers, **more), wanted
        )

    # The actions of a stream.

    async def run_streams(self) -> None:
        """Run one stream after another, each with a random number of actions."""
        while True:
            stream = Stream(f"s{self.draw.getrandbits(40):x}", self.draw.choice(TENANTS), self.zero_carry())
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
        response = await self.request(stream, "POST", "/sessions", (201, 409), json=body)
        stream.epoch = response.json().get("epoch")

    async def send_http(self, stream: Stream) -> None:
        rows = self.draw_observations(stream)
        body = {"observations": rows.tolist(), "at": stream.position, "epoch": stream.epoch}
        path = f"/sessions/{stream.name}/observations"
        payload = (await self.request(stream, "POST", path, (200,), json=body)).json()
        if self.draw.random() < 0.1:
            again = (await self.request(stream, "POST", path, (200,), json=body)).json()
            if not again["replayed"] or again["predictions"] != payload["predictions"]:
                raise WrongAnswer(f"a retry was not replayed: {again}")
        self.compare(stream, rows, payload["predictions"], payload["position"])

    async def abandon(self, stream: Stream) -> None:
        """Send one more chunk, and then let the session expire; it may have expired already."""
        rows = self.draw_observations(stream)
        body = {"observations": rows.tolist(), "at": stream.position, "epoch": stream.epoch}
        path = f"/sessions/{stream.name}/observations"
        response = await self.request(stream, "POST", path, (200, 410), json=body)
        if response.status_code == 200:
            answer = response.json()
            self.compare(stream, rows, answer["predictions"], answer["position"])

    async def send_bulk(self, stream: Stream) -> None:
        rows = self.draw_observations(stream)
        body = {"sessions": [stream.name], "observations": [rows[:, None].tolist()], "at": [stream.position]}
        payload = (await self.request(stream, "POST", "/observations", (200,), json=body)).json()
        if payload["errors"]:
            if payload["errors"]["0"]["status"] not in RETRIED:
                raise WrongAnswer(f"bulk: {payload['errors']}")
            return
        self.compare(stream, rows, np.ravel(payload["predictions"]).tolist(), payload["positions"][0])

    async def send_v2(self, stream: Stream) -> None:
        rows = self.draw_observations(stream)
        tensor = {
            "name": "observations",
            "datatype": "FP32",
            "shape": [1, len(rows), 1],
            "data": rows.tolist(),
        }
        parameters = {"sequence_id": stream.name, "at": stream.position}
        body = {"inputs": [tensor], "parameters": parameters}
        payload = (await self.request(stream, "POST", "/v2/models/bench/infer", (200,), json=body)).json()
        output = next(tensor for tensor in payload["outputs"] if tensor["name"] == "predictions")
        self.compare(stream, rows, output["data"], stream.position + len(rows))

    async def send_socket(self, stream: Stream) -> None:
        """Send three chunks over a socket. Chunks that were not answered when it closed are sent again."""
        chunks = [self.draw_observations(stream) for _ in range(3)]
        starts = np.cumsum([stream.position, *map(len, chunks)]).tolist()
        done = 0
        while done < len(chunks):
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                url = f"ws://{HOST}:{self.port}/sessions/{stream.name}/stream"
                async with connect(url, additional_headers=self.headers(stream.tenant)) as socket:
                    await socket.recv()
                    for i in range(done, len(chunks)):
                        await socket.send(json.dumps({"observations": chunks[i].tolist(), "at": starts[i]}))
                    while done < len(chunks):
                        payload = json.loads(await asyncio.wait_for(socket.recv(), 30))
                        if "predictions" not in payload:
                            if payload.get("status") in (*RETRIED, 409):  # 409: the chunk before was refused
                                break
                            raise WrongAnswer(f"socket: {payload}")
                        self.compare(stream, chunks[done], payload["predictions"], payload["position"])
                        done += 1
            await asyncio.sleep(0 if done == len(chunks) else 0.1)

    async def reset(self, stream: Stream) -> None:
        body = {"at": stream.position}
        await self.request(stream, "POST", f"/sessions/{stream.name}/reset", (200,), json=body)
        stream.carry, stream.last = self.zero_carry(), None

    async def fork(self, stream: Stream) -> None:
        twin = Stream(
            f"{stream.name}f", stream.tenant, stream.carry, stream.position, None, stream.phase, stream.last
        )
        path = f"/sessions/{stream.name}/fork"
        await self.request(stream, "POST", path, (201, 409), json={"id": twin.name, "at": stream.position})
        await self.send_bulk(twin)
        await self.delete(twin)

    async def forecast(self, stream: Stream) -> None:
        if stream.last is None:
            return
        path = f"/sessions/{stream.name}/forecast"
        response = await self.request(stream, "GET", path, (200,), params={"steps": 10, "flat": "true"})
        expected, carry = [stream.last], stream.carry
        for _ in range(9):
            outputs, carry = self.reference(np.array(expected[-1:]), carry)
            expected.append(float(outputs[-1]))
        self.check_predictions(response.json()["forecast"], expected, stream)

    async def move(self, stream: Stream) -> None:
        state = await self.request(stream, "GET", f"/sessions/{stream.name}/state", (200,))
        await self.delete(stream)
        stream.name += "m"
        path = f"/sessions/{stream.name}/state"
        response = await self.request(stream, "PUT", path, (200,), content=state.content)
        stream.epoch = response.json()["epoch"]

    async def delete(self, stream: Stream) -> None:
        await self.request(stream, "DELETE", f"/sessions/{stream.name}", (204, 404, 410))

    # The reference.

    def zero_carry(self) -> tuple[torch.Tensor, torch.Tensor]:
        nothing = torch.zeros(1, 1, HIDDEN, dtype=torch.float64)
        return nothing, nothing

    def draw_observations(self, stream: Stream) -> np.ndarray[Any, np.dtype[np.float64]]:
        count = self.draw.choice((1, 1, 1, 2, 5, self.draw.randint(1, LONGEST)))
        rows: np.ndarray[Any, np.dtype[np.float64]] = np.sin(stream.phase + 0.1 * np.arange(count))
        rows = rows.astype(np.float32).astype(np.float64)
        stream.phase += 0.1 * count
        return rows

    def reference(
        self, rows: np.ndarray[Any, Any], carry: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[np.ndarray[Any, Any], tuple[torch.Tensor, torch.Tensor]]:
        with torch.no_grad():
            outputs, carry = self.lstm(torch.from_numpy(rows).view(1, -1, 1), carry)
            return self.fc(outputs).view(-1).numpy(), carry

    def compare(
        self, stream: Stream, rows: np.ndarray[Any, Any], predictions: list[float], position: int
    ) -> None:
        expected, stream.carry = self.reference(rows, stream.carry)
        stream.position += len(rows)
        stream.last = float(expected[-1])
        if position != stream.position:
            raise WrongAnswer(f"{stream.name} was answered position {position}, but is at {stream.position}")
        self.check_predictions(predictions, expected, stream)
        self.counts["predictions"] += len(rows)

    def check_predictions(self, predictions: Any, expected: Any, stream: Stream) -> None:
        off = float(np.abs(np.asarray(predictions) - np.asarray(expected)).max())
        self.worst = max(self.worst, off)
        if not off <= TOLERANCE:
            raise WrongAnswer(f"{stream.name} at {stream.position}: the error of a prediction is {off}")

    # Disturbances and measurements.

    async def disturb(self) -> None:
        """Reload the model, change the keys and list all sessions, every two seconds."""
        admin = Stream("", "admin", self.zero_carry())
        while True:
            await asyncio.sleep(2)
            await self.step(self.inspect, admin)

    async def inspect(self, admin: Stream) -> None:
        await self.request(admin, "POST", "/models/bench/reload", (200,))
        extra, token = generate_key(f"passing-{self.draw.getrandbits(30)}")
        write(self.folder / "keys.json", [*self.keys, extra])
        await self.request(admin, "GET", "/sessions", (200,), headers={"carryover-tenant": "*"})
        write(self.folder / "keys.json", self.keys)
        self.tokens["passing"] = token

    async def pause(self) -> dict[str, float]:
        """Wait until nothing is in flight, close the connections, and measure what the process holds."""
        self.running.clear()
        deadline = time.monotonic() + RETRY_SECONDS
        while self.busy and time.monotonic() < deadline:  # noqa: ASYNC110  (many tasks change it)
            await asyncio.sleep(0.05)
        await self.client.aclose()
        self.client = httpx.AsyncClient(base_url=f"http://{HOST}:{self.port}", timeout=30)
        await asyncio.sleep(1.5)
        gauges = await self.gauges()
        self.measurements.append(gauges)
        print("  " + "  ".join(f"{name} {value:,.0f}" for name, value in gauges.items()), flush=True)
        return gauges

    async def gauges(self) -> dict[str, float]:
        text = (await self.client.get("/metrics", headers=self.headers("admin"))).text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        names = {
            "RSS MiB": "process_resident_memory_bytes", "files": "process_open_fds",
            "tasks": "carryover_tasks",
            "sockets": "carryover_sockets", "queue": "carryover_queue_jobs", "sessions": "carryover_sessions",
        }  # fmt: skip
        gauges = {name: float(values[metric]) for name, metric in names.items()}
        gauges["RSS MiB"] /= 2**20
        return gauges

    async def run(self, seconds: float, streams: int, server_starts: int, pauses: int) -> None:
        """Start the server `server_starts` times, and pause `pauses` times between two starts."""
        await self.start()
        tasks = [asyncio.create_task(self.run_streams()) for _ in range(streams)]
        tasks.append(asyncio.create_task(self.disturb()))
        for life in range(server_starts):
            if life:
                await asyncio.gather(self.stop_amid_traffic(), return_exceptions=False)
            for _ in range(pauses):
                self.running.set()
                await self.watch(tasks, seconds / server_starts / pauses)
                await self.pause()
        for task in tasks:
            task.cancel()
        await self.clean_up()

    async def stop_amid_traffic(self) -> None:
        self.running.set()
        await asyncio.sleep(0.5)
        await self.stop()
        await self.start()
        self.counts["restarts"] += 1

    async def watch(self, tasks: list[asyncio.Task[None]], seconds: float) -> None:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def clean_up(self) -> None:
        """Wait for sessions to expire, delete the others, and check that none is left."""
        await asyncio.sleep(TTL_SECONDS + 2)
        for tenant in TENANTS:
            reader = Stream("", tenant, self.zero_carry())
            listed = (await self.request(reader, "GET", "/sessions", (200,), params={"limit": 1000})).json()
            for entry in listed["sessions"]:
                await self.delete(Stream(entry["session"], tenant, self.zero_carry()))
        left = await self.gauges()
        if left["sessions"]:
            raise WrongAnswer(f"{left['sessions']:.0f} sessions are left after all were deleted")
        await self.stop()

    def leaks(self, pauses: int) -> list[str]:
        """Compare the last quiet point before each stop of the server with the first one after its start."""
        found = []
        for first, last in zip(
            self.measurements[::pauses], self.measurements[pauses - 1 :: pauses], strict=True
        ):
            for name, most in {"files": 3, "tasks": 2, "sockets": 0, "queue": 0}.items():
                if last[name] > (first[name] if name in {"files", "tasks"} else 0) + most:
                    found.append(f"{name}: {first[name]:.0f}, then {last[name]:.0f}")
            if last["RSS MiB"] - first["RSS MiB"] > LEAK_BYTES / 2**20:
                found.append(f"memory: {first['RSS MiB']:.0f} MiB, then {last['RSS MiB']:.0f}")
        return found


def torch_weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run")
    parser.add_argument("--streams", type=int, default=48, help="streams at a time")
    parser.add_argument("--server-starts", type=int, default=3, help="how often the server is started")
    parser.add_argument("--pauses", type=int, default=3, help="quiet points between two starts")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn at random")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_soak(Path(folder), options))


async def _soak(folder: Path, options: argparse.Namespace) -> int:
    soak = Soak(folder, options.seed)
    print(f"soaking for {options.seconds:.0f} s, seed {options.seed}", flush=True)
    try:
        await soak.run(options.seconds, options.streams, options.server_starts, options.pauses)
        leaks = soak.leaks(options.pauses)
    except WrongAnswer as error:
        leaks = [str(error), *(folder / "server.log").read_text().splitlines()[-30:]]
    finally:
        if soak.process is not None and soak.process.poll() is None:
            soak.process.kill()
    print("\n".join(f"  {name}: {count:,}" for name, count in sorted(soak.counts.items())))
    print(f"  largest error of a prediction: {soak.worst:.1e}; allowed: {TOLERANCE:.0e}")
    print("\n".join(leaks) or "every answer was correct, nothing leaked, and no session is left")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
