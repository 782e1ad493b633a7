"""A soak: the streams, the disturbances of the server, and what its process holds at quiet points."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

from app.access.keys import generate_key
from benchmarks.reference import write_artifact, write_seeded_weights
from benchmarks.soak.checks import Checker, Stream, WrongAnswer
from benchmarks.soak.service import RETRY_SECONDS, TENANTS, Service
from benchmarks.soak.streams import TTL_SECONDS, Traffic

LEAK_BYTES = 40 * 2**20


class Soak:
    """One run: the server, the clients and the results."""

    def __init__(self, folder: Path, seed: int) -> None:
        weights = folder / "weights.safetensors"
        write_seeded_weights(weights)
        write_artifact(weights, folder / "models" / "soak")
        self.counts: Counter[str] = Counter()
        self.measurements: list[dict[str, float]] = []
        self.draw = random.Random(seed)
        self.service = Service(folder, self.counts)
        self.checker = Checker(weights, self.draw, self.counts)
        self.traffic = Traffic(self.service, self.checker, self.draw, self.counts)

    async def disturb(self) -> None:
        """Reload the model, change the keys and list all sessions, every two seconds."""
        while True:
            await asyncio.sleep(2)
            await self.traffic.step(self.inspect)

    async def inspect(self) -> None:
        await self.service.request("admin", "POST", "/models/bench/reload", (200,))
        extra, token = generate_key(f"passing-{self.draw.getrandbits(30)}")
        self.service.write_keys(extra)
        await self.service.request("admin", "GET", "/sessions", (200,), headers={"carryover-tenant": "*"})
        self.service.write_keys()
        self.service.tokens["passing"] = token

    async def pause(self) -> dict[str, float]:
        """Wait until nothing is in flight, close the connections, and measure what the process holds."""
        self.traffic.running.clear()
        deadline = time.monotonic() + RETRY_SECONDS
        while self.traffic.busy and time.monotonic() < deadline:  # noqa: ASYNC110  (many tasks change it)
            await asyncio.sleep(0.05)
        await self.service.client.aclose()
        self.service.connect()
        await asyncio.sleep(1.5)
        gauges = await self.service.gauges()
        self.measurements.append(gauges)
        print("  " + "  ".join(f"{name} {value:,.0f}" for name, value in gauges.items()), flush=True)
        return gauges

    async def run(self, seconds: float, streams: int, server_starts: int, pauses: int) -> None:
        """Start the server `server_starts` times, and pause `pauses` times between two starts."""
        await self.service.start()
        tasks = [asyncio.create_task(self.traffic.run_streams()) for _ in range(streams)]
        tasks.append(asyncio.create_task(self.disturb()))
        for life in range(server_starts):
            if life:
                await asyncio.gather(self.stop_amid_traffic(), return_exceptions=False)
            for _ in range(pauses):
                self.traffic.running.set()
                await self.watch(tasks, seconds / server_starts / pauses)
                await self.pause()
        for task in tasks:
            task.cancel()
        await self.clean_up()

    async def stop_amid_traffic(self) -> None:
        self.traffic.running.set()
        await asyncio.sleep(0.5)
        await self.service.stop()
        await self.service.start()
        self.counts["restarts"] += 1

    async def watch(self, tasks: list[asyncio.Task[None]], seconds: float) -> None:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def clean_up(self) -> None:
        """Wait for sessions to expire, delete the others, and check that none is left."""
        await asyncio.sleep(TTL_SECONDS + 2)
        for tenant in TENANTS:
            listed = (
                await self.service.request(tenant, "GET", "/sessions", (200,), params={"limit": 1000})
            ).json()
            for entry in listed["sessions"]:
                await self.traffic.delete(Stream(entry["session"], tenant, self.checker.zero_carry()))
        left = await self.service.gauges()
        if left["sessions"]:
            raise WrongAnswer(f"{left['sessions']:.0f} sessions are left after all were deleted")
        await self.service.stop()

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
