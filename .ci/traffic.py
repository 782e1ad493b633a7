"""What .ci/containers sends to servers that it stops and kills, with the project's own client.

    traffic.py load URL CLIENTS            chunks until SIGTERM; then what became of them
    traffic.py socket URL                  a socket until it is closed; its code and reason
    traffic.py sequences URL SERVERS       /v2 sequences; how many requests each replica had
    traffic.py fill URL COUNT              so many sessions of one observation each

`load` and `socket` write "streaming" to stderr as soon as every session has an answer. `load` ends with
status 1 when a chunk is missing or was applied twice, or a prediction is not that of one uninterrupted pass.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import re
import signal
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from carryover import AsyncCarryover, Carryover, RetryPolicy

from models.artifact.files import load
from models.forecaster import Forecaster

SINE = Path(__file__).resolve().parent.parent / "models" / "zoo" / "sine"
SEQUENCES = 200
OBSERVATIONS = 100_000  # more than any client gets through
TOLERANCE = 1e-6  # in units of the target's standard deviation


@dataclass
class Stream:
    """One session: what was sent and what was answered."""

    url: str
    name: str
    seed: int
    sent: int = 0
    chunks: int = 0
    replayed: int = 0
    predictions: list[float] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    position: int = 0

    def __post_init__(self) -> None:
        self.series = np.random.default_rng(self.seed).normal(size=OBSERVATIONS).astype(np.float32).round(3)

    async def run(self, stop: asyncio.Event) -> None:
        """Send chunk after chunk, each until it is answered; then ask the server where the session is."""
        draw = random.Random(self.seed)
        async with AsyncCarryover(self.url, retry=RetryPolicy(90.0, max_pause=0.5), timeout=10.0) as service:
            session = service.session(self.name)
            while not stop.is_set():
                length = draw.choice((1, 1, 2, 5))
                chunk = self.series[self.sent : self.sent + length, None]
                self.sent += length
                self.chunks += 1
                answer = await session.advance(chunk)
                self.replayed += answer.replayed
                self.predictions += np.asarray(answer.predictions, np.float32).ravel().tolist()
                self.answered_at.append(time.monotonic())
                self.answered.set()
            self.position = (await session.info()).position

    def worst(self, forecaster: Forecaster, scale: float) -> float:
        """Largest difference from one uninterrupted pass, in units of `scale`."""
        carries = np.zeros((1, forecaster.carry_size), np.float32)
        whole, _ = forecaster.advance(self.series[: self.sent, None], np.array([self.sent]), carries)
        got = np.asarray(self.predictions, np.float32)
        return float(np.abs(got - whole[:, 0]).max() / scale)


async def send_load(url: str, clients: int) -> int:
    """Stream until SIGTERM, and judge."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    draw = random.randrange(10**6)
    streams = [Stream(url, f"load-{draw}-{i}", i) for i in range(clients)]
    start = asyncio.create_task(report_start(streams))
    await asyncio.gather(*(one.run(stop) for one in streams))
    start.cancel()  # SIGTERM may come before the first answer
    artifact = load(SINE)
    forecaster, scale = Forecaster(artifact), float(artifact.target_scaling.std[0])
    answered = sorted(moment for one in streams for moment in one.answered_at)
    report = {
        "chunks": sum(one.chunks for one in streams),
        "replayed": sum(one.replayed for one in streams),
        "missing": sum(max(0, one.sent - one.position) for one in streams),
        "doubled": sum(max(0, one.position - one.sent) for one in streams),
        "different": sum(one.worst(forecaster, scale) > TOLERANCE for one in streams),
        "longest_gap_s": round(max(np.diff(answered)), 2),
        "longest_wait_s": round(max(max(np.diff(one.answered_at)) for one in streams), 2),
    }
    print(json.dumps(report))
    return int(bool(report["missing"] or report["doubled"] or report["different"]))


async def report_start(streams: list[Stream]) -> None:
    """Wait until every stream has an answer, and report it."""
    await asyncio.gather(*(stream.answered.wait() for stream in streams))
    print("streaming", file=sys.stderr)


async def hold_socket(url: str) -> int:
    """Stream over one socket until the server closes it."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async with connect(f"{url.replace('http', 'ws', 1)}/sessions/held/stream") as socket:
        position = json.loads(await socket.recv())["position"] or 0
        print("streaming", file=sys.stderr)
        try:
            while True:
                await socket.send(json.dumps({"observations": [[0.1]], "at": position}))
                position = json.loads(await socket.recv())["position"]
                await asyncio.sleep(0.05)
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
    print(json.dumps({"code": code, "reason": reason, "position": position}))
    return 0


def spread_sequences(url: str, servers: list[str]) -> int:
    """Send two tensors of each of many sequences; tell how many each replica answered."""
    before = [_infer_requests(one) for one in servers]
    tensor = {"name": "observations", "shape": [1, 1, 1], "datatype": "FP32", "data": [0.1]}
    for start in (True, False):
        for sequence in range(1, SEQUENCES + 1):
            options = {"sequence_id": sequence, "sequence_start": start}
            _post(f"{url}/v2/models/sine/infer", {"parameters": options, "inputs": [tensor]})
    print(json.dumps([_infer_requests(one) - past for one, past in zip(servers, before, strict=True)]))
    return 0


def fill(url: str, count: int, at_once: int = 5000) -> int:
    """Make sessions by a chunk each."""
    with Carryover(url) as service:
        for first in range(0, count, at_once):
            service.advance({f"filled-{i}": [[0.1]] for i in range(first, min(count, first + at_once))})
    return 0


def _infer_requests(url: str) -> int:
    with urllib.request.urlopen(f"{url}/v2/models/sine/stats", timeout=10) as answer:
        report = json.load(answer)
    return int(re.search(r'"inference_count": ?(\d+)', json.dumps(report))[1])  # type: ignore[index]


def _post(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


def main() -> int:
    """Do what the first argument says. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("load", "socket", "sequences", "fill"))
    parser.add_argument("url")
    parser.add_argument("rest", nargs="*")
    options = parser.parse_args()
    logging.getLogger("carryover").setLevel(logging.ERROR)  # retries are what is wanted here
    if options.what == "load":
        return asyncio.run(send_load(options.url, int(options.rest[0])))
    if options.what == "socket":
        return asyncio.run(hold_socket(options.url))
    if options.what == "fill":
        return fill(options.url, int(options.rest[0]))
    return spread_sequences(options.url, options.rest)


if __name__ == "__main__":
    sys.exit(main())
