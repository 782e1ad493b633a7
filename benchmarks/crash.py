"""Kill a server under load with SIGKILL at random moments, restart it, and check that no answered chunk is
lost.

    python -m benchmarks.crash [--kills 200] [--clients 32] [--models FOLDER] [--seed 1]
                                [--durability 250ms]

Every client streams its own series with `at`, and sends each chunk again until it is answered. At the end its
predictions must equal those of one uninterrupted pass: no acknowledged chunk is missing, and none was applied
twice. Otherwise the exit status is 1. The server makes checkpoints and empties its journal far more often
than usual, so that kills interrupt these, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ports import free_port
from models.artifact.files import load
from models.forecaster import Forecaster

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-6  # in units of the target's standard deviation
OBSERVATIONS = 200_000  # more than any client gets through
SERVE = """
import os
from app.stores.sqlite import store
from app.config import Settings
from app.server import run
store.CHECKPOINT_BYTES, store.JOURNAL_BYTES = 400_000, 100_000
store.PENDING_SESSIONS, store.WRITTEN_AT_ONCE = 12, 4
{planted}
raise SystemExit(run(Settings.from_env(os.environ)))
"""
COMMIT_AFTER_REPLY = """
import asyncio
from app.engine.commit import Commit
commit = Commit.commit
async def delayed_commit(self, *arguments):
    await asyncio.sleep(0.05)
    await commit(self, *arguments)
async def start_commit(self, *arguments):
    self.started = asyncio.get_running_loop().create_task(delayed_commit(self, *arguments))
Commit.commit = start_commit
"""


@dataclass
class Report:
    """The results of all clients."""

    kills: int = 0
    acknowledged: int = 0  # chunks
    observations: int = 0
    sent_again: int = 0
    replayed: int = 0
    missing: int = 0  # clients that got a position before their last acknowledged chunk
    twice: int = 0  # clients that got a position after everything they sent
    different: int = 0  # clients whose predictions differ from those of one pass
    worst: float = 0.0  # difference, in standard deviations
    others: list[str] = field(default_factory=list)

    @property
    def broken(self) -> int:
        return self.missing + self.twice + self.different + len(self.others)

    def __str__(self) -> str:
        summary = (
            f"{self.kills} kills; {self.acknowledged:,} chunks acknowledged "
            f"({self.observations:,} observations), "
            f"{self.sent_again:,} sent again, {self.replayed:,} of them replayed; "
            f"{self.missing} missing, {self.twice} applied twice, {self.different} clients with other "
            f"predictions (worst difference {self.worst:.1e})"
        )
        return "; ".join([summary, *self.others[:3]])


class Client:
    """One session's stream."""

    def __init__(self, name: str, port: int, seed: int, report: Report) -> None:
        self.name, self.port, self.report = name, port, report
        self.draw = random.Random(seed)
        rng = np.random.default_rng(seed)
        self.series = rng.normal(size=OBSERVATIONS).astype(np.float32).round(3)
        self.position = 0
        self.predictions: list[list[float]] = []
        self.broken = False
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def stream(self, stop: asyncio.Event) -> None:
        """Send chunks until `stop` is set; each is repeated until it is answered."""
        while not stop.is_set() and not self.broken:
            length = self.draw.choice((1, 1, 1, 2, 5))
            chunk = self.series[self.position : self.position + length]
            body = {"observations": chunk.tolist(), "at": self.position}
            await self._until_answered(json.dumps(body).encode(), length)
        await self._hang_up()

    async def _until_answered(self, body: bytes, length: int) -> None:
        while True:
            try:
                status, payload = await self._send(body)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                await self._hang_up()
                self.report.sent_again += 1
                await asyncio.sleep(0.02)
                continue
            if status == 503:
                await asyncio.sleep(0.02)
                continue
            self._take(status, payload, length)
            return

    def _take(self, status: int, payload: dict[str, Any], length: int) -> None:
        report = self.report
        if status == 200:
            self.position += length
            self.predictions.append(payload["predictions"])
            report.acknowledged += 1
            report.observations += length
            report.replayed += payload["replayed"]
            return
        self.broken = True
        at = payload.get("position", 0 if status == 404 else None)
        if at is None:
            report.others.append(f"{self.name}: {payload}")
        elif at < self.position:
            report.missing += 1
        else:
            report.twice += 1

    async def _send(self, body: bytes) -> tuple[int, dict[str, Any]]:
        async with asyncio.timeout(20):
            if self._connection is None:
                self._connection = await asyncio.open_connection(HOST, self.port)
            reader, writer = self._connection
            path = f"/sessions/{self.name}/observations"
            writer.write(
                f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.split("content-length: ")[1].split("\r\n")[0])
            return int(head.split()[1]), json.loads(await reader.readexactly(size))

    async def _hang_up(self) -> None:
        if self._connection is not None:
            writer, self._connection = self._connection[1], None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def judge(self, forecaster: Forecaster, scale: float) -> None:
        """Compare all that was answered with one uninterrupted pass, in units of `scale`."""
        if not self.position:
            return
        observations = self.series[: self.position, None]
        carries = np.zeros((1, forecaster.carry_size), np.float32)
        whole, _ = forecaster.advance(observations, np.array([self.position]), carries)
        predictions = np.concatenate([np.asarray(part, np.float32).ravel() for part in self.predictions])
        worst = float(np.abs(predictions - whole[:, 0]).max() / scale)
        self.report.worst = max(self.report.worst, worst)
        self.report.different += worst > TOLERANCE


async def crash(
    models: Path,
    folder: Path,
    kills: int,
    clients: int,
    seed: int,
    planted: str = "",
    most_seconds: float = 1.0,
    durability: str = "commit",
) -> Report:
    """Stream, kill, restart, and compare the predictions.

    Parameters
    ----------
    models : an artifact with one input
    folder : for the store
    planted : Python code that the server runs first, to plant a bug
    most_seconds : the longest time from a server's first answer to its kill
    durability : the setting CARRYOVER_DURABILITY
    """
    report, draw, port, stop = Report(), random.Random(seed), free_port(), asyncio.Event()
    callers = [Client(f"client-{i}", port, seed * 1000 + i, report) for i in range(clients)]
    streams = [asyncio.create_task(client.stream(stop)) for client in callers]
    for _ in range(kills):
        async with _server(models, folder, port, planted, durability) as server:
            before = report.acknowledged
            while report.acknowledged == before and not all(client.broken for client in callers):
                if server.returncode is not None:
                    raise RuntimeError(f"the server stopped by itself with status {server.returncode}")
                await asyncio.sleep(0.005)
            await asyncio.sleep(draw.uniform(0.0, most_seconds))
            server.kill()
            report.kills += 1
    async with _server(models, folder, port, planted, durability) as server:
        stop.set()
        await asyncio.gather(*streams)
        server.terminate()
    artifact = load(models)
    forecaster, scale = Forecaster(artifact), float(artifact.target_scaling.std[0])
    for client in callers:
        client.judge(forecaster, scale)
    return report


@asynccontextmanager
async def _server(
    models: Path, folder: Path, port: int, planted: str, durability: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    ours = {name: text for name, text in os.environ.items() if not name.startswith("CARRYOVER_")}
    environment = ours | {
        "CARRYOVER_STORE": f"sqlite:{folder / 'carryover.sqlite'}",
        "CARRYOVER_MODELS": str(models),
        "CARRYOVER_DURABILITY": durability,
        "CARRYOVER_PORT": str(port),
        "CARRYOVER_LOG_LEVEL": "error",
        "CARRYOVER_RESIDENT_SESSIONS": "2048",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVE.format(planted=planted)),
        env=environment,
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None and sys.exc_info()[0] is not None:
            process.kill()
        await process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument(
        "--models", type=Path, default=Path("models/zoo/sine"), help="an artifact with one input"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--durability", default="commit", help="the setting CARRYOVER_DURABILITY")
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            crash(
                options.models,
                Path(folder),
                options.kills,
                options.clients,
                options.seed,
                durability=options.durability,
            )
        )
    print(f"{report}; {time.perf_counter() - began:.0f} s")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
