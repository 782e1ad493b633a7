"""Mixed traffic of all kinds for as long as you like, every prediction checked, and what it leaves behind.

    python -m benchmarks.soak --seconds 600 --streams 48

A server with keys, a store on disk and far fewer resident sessions than there are. Streams of three tenants
send chunks by every way in, retry them, reset, fork, forecast, move to another id, expire and are deleted;
meanwhile the model is reloaded, keys come and go, and the server is stopped and started again, in the middle
of whatever is under way. Each stream keeps its own float64 reference and compares every answer with it.

At quiet points (nothing in flight, the clients' connections closed) what the process holds is written down:
memory, open files, tasks, sockets, queue. At the end every session is deleted and none may be left.
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
PATIENCE_SECONDS = 60.0
LEAK_BYTES = 40 * 2**20
RETRIED = (429, 503)


class Wrong(AssertionError):
    """The server answered something that it should not have."""


@dataclass
class Stream:
    """One session, and what it should be answered."""

    name: str
    tenant: str
    carry: tuple[torch.Tensor, torch.Tensor]
    position: int = 0
    epoch: str | None = None
    phase: float = 0.0
    last: float | None = None


@dataclass
class Soak:
    """One run: the server, the clients and the score."""

    folder: Path
    seed: int
    port: int = field(default_factory=free_port)
    counted: Counter[str] = field(default_factory=Counter)
    quiet: list[dict[str, float]] = field(default_factory=list)
    worst: float = 0.0

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        weights = self.folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, self.folder / "models" / "soak")
        self.lstm, self.fc = Reference(torch_weights(weights))._modules()
        self.tokens: dict[str, str] = {}
        self.keys: list[Key] = []
        for name, role in (*((tenant, "stream") for tenant in TENANTS), ("boss", "admin")):
            key, self.tokens[name] = generate_key(name, role=role)  # type: ignore[arg-type]
            self.keys.append(key)
        write(self.folder / "keys.json", self.keys)
        self.process: subprocess.Popen[bytes] | None = None
        self.client: httpx.AsyncClient
        self.going = asyncio.Event()
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
        await self.patiently(lambda: self.client.get("/health/ready"), (200,))

    async def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(self.process.wait, 60)
        if status:
            raise Wrong(f"the server stopped with status {status}")

    async def patiently(
        self, ask: Callable[[], Awaitable[httpx.Response]], wanted: tuple[int, ...]
    ) -> httpx.Response:
        """Ask until there is an answer: what is not there, or has too much to do, is asked again."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                response = await ask()
            except httpx.TransportError:
                self.counted["connections lost"] += 1
            else:
                if response.status_code in wanted:
                    return response
                if response.status_code not in RETRIED:
                    raise Wrong(f"{response.request.url}: {response.status_code} {response.text[:300]}")
                self.counted[f"answered {response.status_code}"] += 1
            await asyncio.sleep(0.05)
        raise Wrong(f"no answer within {PATIENCE_SECONDS:.0f} s")

    def headers(self, tenant: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[tenant]}"}

    async def request(
        self, stream: Stream, method: str, path: str, wanted: tuple[int, ...], **more: Any
    ) -> httpx.Response:
        headers = self.headers(stream.tenant) | more.pop("headers", {})
        return await self.patiently(
            lambda: self.client.request(method, path, headers=headers, **more), wanted
        )

    # What a stream does.

    async def live(self) -> None:
        """One stream after the other, each for as long as chance will have it."""
        while True:
            stream = Stream(f"s{self.dice.getrandbits(40):x}", self.dice.choice(TENANTS), self.fresh())
            mortal = self.dice.random() < 0.2
            await self.step(self.create, stream, mortal)
            if mortal:
                await self.step(self.abandon, stream)
                continue
            for _ in range(self.dice.randint(1, 40)):
                await self.step(self.dice.choices(self.actions, self.odds)[0], stream)
            await self.step(self.delete, stream)

    @property
    def actions(self) -> list[Callable[..., Awaitable[None]]]:
        return [
            self.by_http,
            self.by_bulk,
            self.by_v2,
            self.by_socket,
            self.reset,
            self.fork,
            self.forecast,
            self.move,
        ]

    odds = (40, 15, 10, 10, 5, 5, 10, 5)

    async def step(self, action: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        await self.going.wait()
        self.busy += 1
        try:
            await action(*arguments)
            self.counted[action.__name__.replace("_", " ")] += 1
        finally:
            self.busy -= 1

    async def create(self, stream: Stream, mortal: bool) -> None:
        body = {"id": stream.name} | ({"ttl_seconds": TTL_SECONDS} if mortal else {})
        told = await self.request(stream, "POST", "/sessions", (201, 409), json=body)
        stream.epoch = told.json().get("epoch")

    async def by_http(self, stream: Stream) -> None:
        rows = self.drawn(stream)
        body = {"observations": rows.tolist(), "at": stream.position, "epoch": stream.epoch}
        path = f"/sessions/{stream.name}/observations"
        told = (await self.request(stream, "POST", path, (200,), json=body)).json()
        if self.dice.random() < 0.1:
            again = (await self.request(stream, "POST", path, (200,), json=body)).json()
            if not again["replayed"] or again["predictions"] != told["predictions"]:
                raise Wrong(f"a retry was not replayed: {again}")
        self.compare(stream, rows, told["predictions"], told["position"])

    async def abandon(self, stream: Stream) -> None:
        """One chunk more, and then the session is left to expire, if it has not yet."""
        rows = self.drawn(stream)
        body = {"observations": rows.tolist(), "at": stream.position, "epoch": stream.epoch}
        told = await self.request(
            stream, "POST", f"/sessions/{stream.name}/observations", (200, 410), json=body
        )
        if told.status_code == 200:
            self.compare(stream, rows, told.json()["predictions"], told.json()["position"])

    async def by_bulk(self, stream: Stream) -> None:
        rows = self.drawn(stream)
        body = {"sessions": [stream.name], "observations": [rows[:, None].tolist()], "at": [stream.position]}
        told = (await self.request(stream, "POST", "/observations", (200,), json=body)).json()
        if told["errors"]:
            if told["errors"]["0"]["status"] not in RETRIED:
                raise Wrong(f"bulk: {told['errors']}")
            return
        self.compare(stream, rows, np.ravel(told["predictions"]).tolist(), told["positions"][0])

    async def by_v2(self, stream: Stream) -> None:
        rows = self.drawn(stream)
        tensor = {
            "name": "observations",
            "datatype": "FP32",
            "shape": [1, len(rows), 1],
            "data": rows.tolist(),
        }
        parameters = {"sequence_id": stream.name, "at": stream.position}
        body = {"inputs": [tensor], "parameters": parameters}
        told = (await self.request(stream, "POST", "/v2/models/bench/infer", (200,), json=body)).json()
        output = next(one for one in told["outputs"] if one["name"] == "predictions")
        self.compare(stream, rows, output["data"], stream.position + len(rows))

    async def by_socket(self, stream: Stream) -> None:
        """A few chunks in flight; what was not answered when the socket closed is sent again."""
        chunks = [self.drawn(stream) for _ in range(3)]
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
                        told = json.loads(await asyncio.wait_for(socket.recv(), 30))
                        if "predictions" not in told:
                            if told.get("status") in (*RETRIED, 409):  # 409: the one before was refused
                                break
                            raise Wrong(f"socket: {told}")
                        self.compare(stream, chunks[done], told["predictions"], told["position"])
                        done += 1
            await asyncio.sleep(0 if done == len(chunks) else 0.1)

    async def reset(self, stream: Stream) -> None:
        body = {"at": stream.position}
        await self.request(stream, "POST", f"/sessions/{stream.name}/reset", (200,), json=body)
        stream.carry, stream.last = self.fresh(), None

    async def fork(self, stream: Stream) -> None:
        twin = Stream(
            f"{stream.name}f", stream.tenant, stream.carry, stream.position, None, stream.phase, stream.last
        )
        path = f"/sessions/{stream.name}/fork"
        await self.request(stream, "POST", path, (201, 409), json={"id": twin.name, "at": stream.position})
        await self.by_bulk(twin)
        await self.delete(twin)

    async def forecast(self, stream: Stream) -> None:
        if stream.last is None:
            return
        path = f"/sessions/{stream.name}/forecast"
        told = await self.request(stream, "GET", path, (200,), params={"steps": 10, "flat": "true"})
        expected, carry = [stream.last], stream.carry
        for _ in range(9):
            outputs, carry = self.reference(np.array(expected[-1:]), carry)
            expected.append(float(outputs[-1]))
        self.judge(told.json()["forecast"], expected, stream)

    async def move(self, stream: Stream) -> None:
        state = await self.request(stream, "GET", f"/sessions/{stream.name}/state", (200,))
        await self.delete(stream)
        stream.name += "m"
        told = await self.request(
            stream, "PUT", f"/sessions/{stream.name}/state", (200,), content=state.content
        )
        stream.epoch = told.json()["epoch"]

    async def delete(self, stream: Stream) -> None:
        await self.request(stream, "DELETE", f"/sessions/{stream.name}", (204, 404, 410))

    # The reference.

    def fresh(self) -> tuple[torch.Tensor, torch.Tensor]:
        nothing = torch.zeros(1, 1, HIDDEN, dtype=torch.float64)
        return nothing, nothing

    def drawn(self, stream: Stream) -> np.ndarray[Any, np.dtype[np.float64]]:
        count = self.dice.choice((1, 1, 1, 2, 5, self.dice.randint(1, LONGEST)))
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

    def compare(self, stream: Stream, rows: np.ndarray[Any, Any], told: list[float], position: int) -> None:
        expected, stream.carry = self.reference(rows, stream.carry)
        stream.position += len(rows)
        stream.last = float(expected[-1])
        if position != stream.position:
            raise Wrong(f"{stream.name} is told {position}, and is at {stream.position}")
        self.judge(told, expected, stream)
        self.counted["predictions"] += len(rows)

    def judge(self, told: Any, expected: Any, stream: Stream) -> None:
        off = float(np.abs(np.asarray(told) - np.asarray(expected)).max())
        self.worst = max(self.worst, off)
        if not off <= TOLERANCE:
            raise Wrong(f"{stream.name} at {stream.position}: a prediction is off by {off}")

    # What happens around them.

    async def disturb(self) -> None:
        """Reload the model, change the keys, look at everything."""
        boss = Stream("", "boss", self.fresh())
        while True:
            await asyncio.sleep(2)
            await self.step(self.look, boss)

    async def look(self, boss: Stream) -> None:
        await self.request(boss, "POST", "/models/bench/reload", (200,))
        extra, token = generate_key(f"passing-{self.dice.getrandbits(30)}")
        write(self.folder / "keys.json", [*self.keys, extra])
        await self.request(boss, "GET", "/sessions", (200,), headers={"carryover-tenant": "*"})
        write(self.folder / "keys.json", self.keys)
        self.tokens["passing"] = token

    async def rest(self) -> dict[str, float]:
        """A quiet point: nothing in flight, no connection open. What the process holds then."""
        self.going.clear()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.busy and time.monotonic() < deadline:  # noqa: ASYNC110  (of many, by turns)
            await asyncio.sleep(0.05)
        await self.client.aclose()
        self.client = httpx.AsyncClient(base_url=f"http://{HOST}:{self.port}", timeout=30)
        await asyncio.sleep(1.5)
        told = await self.gauges()
        self.quiet.append(told)
        print("  " + "  ".join(f"{name} {value:,.0f}" for name, value in told.items()), flush=True)
        return told

    async def gauges(self) -> dict[str, float]:
        text = (await self.client.get("/metrics", headers=self.headers("boss"))).text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        names = {
            "RSS MiB": "process_resident_memory_bytes", "files": "process_open_fds",
            "tasks": "carryover_tasks",
            "sockets": "carryover_sockets", "queue": "carryover_queue_jobs", "sessions": "carryover_sessions",
        }  # fmt: skip
        told = {name: float(values[metric]) for name, metric in names.items()}
        told["RSS MiB"] /= 2**20
        return told

    async def run(self, seconds: float, streams: int, lives: int, rests: int) -> None:
        """Start the server as often as it has lives, and rest in each of them so often."""
        await self.start()
        tasks = [asyncio.create_task(self.live()) for _ in range(streams)]
        tasks.append(asyncio.create_task(self.disturb()))
        for life in range(lives):
            if life:
                await asyncio.gather(self.stop_amid_traffic(), return_exceptions=False)
            for _ in range(rests):
                self.going.set()
                await self.unless_wrong(tasks, seconds / lives / rests)
                await self.rest()
        for task in tasks:
            task.cancel()
        await self.clean_up()

    async def stop_amid_traffic(self) -> None:
        self.going.set()
        await asyncio.sleep(0.5)
        await self.stop()
        await self.start()
        self.counted["restarts"] += 1

    async def unless_wrong(self, tasks: list[asyncio.Task[None]], seconds: float) -> None:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def clean_up(self) -> None:
        """Delete what is left; what was to expire has."""
        await asyncio.sleep(TTL_SECONDS + 2)
        for tenant in TENANTS:
            reader = Stream("", tenant, self.fresh())
            listed = (await self.request(reader, "GET", "/sessions", (200,), params={"limit": 1000})).json()
            for one in listed["sessions"]:
                await self.delete(Stream(one["session"], tenant, self.fresh()))
        left = await self.gauges()
        if left["sessions"]:
            raise Wrong(f"{left['sessions']:.0f} sessions are left")
        await self.stop()

    def leaks(self, rests: int) -> list[str]:
        """What a life of the server held at its end, and not at its first quiet point."""
        found = []
        for first, last in zip(self.quiet[::rests], self.quiet[rests - 1 :: rests], strict=True):
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
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--streams", type=int, default=48)
    parser.add_argument("--lives", type=int, default=3, help="how often the server is started")
    parser.add_argument("--rests", type=int, default=3, help="quiet points in each life")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_soak(Path(folder), told))


async def _soak(folder: Path, told: argparse.Namespace) -> int:
    soak = Soak(folder, told.seed)
    print(f"soaking for {told.seconds:.0f} s, seed {told.seed}", flush=True)
    try:
        await soak.run(told.seconds, told.streams, told.lives, told.rests)
        leaks = soak.leaks(told.rests)
    except Wrong as error:
        leaks = [str(error), *(folder / "server.log").read_text().splitlines()[-30:]]
    finally:
        if soak.process is not None and soak.process.poll() is None:
            soak.process.kill()
    print("\n".join(f"  {name}: {count:,}" for name, count in sorted(soak.counted.items())))
    print(f"  worst prediction: off by {soak.worst:.1e}, {TOLERANCE:.0e} is allowed")
    print("\n".join(leaks) or "nothing wrong, nothing leaked, no session left")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
