"""64 sessions that write text: Carryover beside FastAPI with one call of torch a token.

    python -m benchmarks.generation [--rounds 5] [--seconds 3] [--hidden 256] [--vocabulary 100]

Every session has a connection of its own. Behind FastAPI it sends each token and gets the next one, as a
closed loop; of Carryover it asks for 200 tokens at a time. The servers take turns on one core, and the load
comes from another. After each run a text of Carryover must be the one that the same model writes in this
process, alone. Prints a line for each run, then the medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.dialects import HOST, SessionInPath
from benchmarks.load import BadRun
from benchmarks.processes import cpu_seconds
from benchmarks.servers import OURS, QUIET, UVICORN, Running, Server, running
from models.artifact.artifact import Artifact
from models.artifact.files import save
from models.artifact.text import text_artifact
from models.forecaster import Forecaster
from models.generation.sampling import Sampling, TokenSampler
from models.generation.stopping import Stop, StopWatch
from models.nets.architecture import Architecture, Embedding

SESSIONS, STEPS, PROMPT, TEMPERATURE = 64, 200, 1, 0.8
FIRST_PIECE = 0x4E00  # any characters will do


def main() -> None:
    """Print every run, and the ratios."""
    options = _options()
    os.sched_setaffinity(0, {options.generator_core})
    artifact = _model(options.vocabulary, options.hidden)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        save(artifact, folder / "artifact")
        contenders = {
            server.name: stack.enter_context(
                running(server, options.server_core, folder / "artifact.json", folder)
            )
            for server in _servers()
        }
        runs: dict[str, list[tuple[float, float]]] = {server: [] for server in contenders}
        order = random.Random(0)
        for turn in range(options.rounds):
            for server in order.sample(list(contenders), len(contenders)):
                rate, cpu_us = asyncio.run(_measured(contenders[server], f"r{turn}", options.seconds))
                runs[server].append((rate, cpu_us))
                print(
                    f"{turn + 1}/{options.rounds} {server}: {rate:,.0f} tokens/s, {cpu_us:.0f} us of CPU each"
                )
            _check(contenders["carryover"], artifact, turn)
    pairs = list(zip(runs["carryover"], runs["fastapi"], strict=True))
    for server, of_server in runs.items():
        print(f"{server}: {median(rate for rate, _ in of_server):,.0f} tokens/s")
    by_rate = median(ours[0] / theirs[0] for ours, theirs in pairs)
    by_cpu = median(theirs[1] / ours[1] for ours, theirs in pairs)
    print(f"carryover over fastapi: {by_rate:.1f} of tokens/s, {by_cpu:.1f} of CPU a token")


def _servers() -> list[Server]:
    environment = {"CARRYOVER_PORT": "{port}", "CARRYOVER_HOST": HOST, "CARRYOVER_MODELS": "{artifact}"}
    peer = (*UVICORN, *QUIET, "--port", "{port}", "benchmarks.peers.tokens:app")
    return [
        Server("fastapi", peer, SessionInPath()),
        Server("carryover", OURS, SessionInPath(), environment),
    ]


def _model(vocabulary: int, hidden: int) -> Artifact:
    architecture = Architecture("lstm", embedding=Embedding(vocabulary, 32))
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32)
        for name, shape in architecture.weight_shapes(1, hidden, 1, vocabulary).items()
    }
    pieces = tuple(chr(FIRST_PIECE + token) for token in range(vocabulary))
    return text_artifact("text", pieces, weights, architecture)


async def _measured(contender: Running, prefix: str, seconds: float) -> tuple[float, float]:
    """Tokens a second, and microseconds of the server's CPU for each."""
    until = time.perf_counter() + seconds
    pid = contender.process.pid
    began, before = time.perf_counter(), cpu_seconds(pid)
    write = _write_whole if contender.server.name == "carryover" else _write_token_by_token
    counts = await asyncio.gather(*(write(contender.port, f"{prefix}-{i}", until) for i in range(SESSIONS)))
    tokens, cpu = sum(counts), cpu_seconds(pid) - before
    return tokens / (time.perf_counter() - began), 1e6 * cpu / tokens


async def _write_whole(port: int, session: str, until: float) -> int:
    async with _Client(port) as client:
        count, prompt = 0, [PROMPT]
        while time.perf_counter() < until:
            body = {"prompt": prompt, "steps": STEPS, "temperature": TEMPERATURE}
            answer = await client.post(f"/sessions/{session}/generate", body)
            count, prompt = count + len(answer["tokens"]), []
        return count


async def _write_token_by_token(port: int, session: str, until: float) -> int:
    async with _Client(port) as client:
        count, token = 0, PROMPT
        while time.perf_counter() < until:
            token = (await client.post(f"/sessions/{session}/token", {"token": token}))["token"]
            count += 1
        return count


class _Client:
    """One connection, with one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> _Client:
        self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, path: str, body: object) -> dict[str, Any]:
        """Send a request, and return the object of its answer."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
        content = await self._reader.readexactly(size)
        if not answer.startswith("http/1.1 200"):
            raise BadRun(f"refused: {content[:300]!r}")
        document: dict[str, Any] = json.loads(content)
        return document


def _check(contender: Running, artifact: Artifact, seed: int) -> None:
    """Compare a text with the one that is written here.

    Raises
    ------
    BadRun
        If they differ.
    """

    async def asked() -> Any:
        body = {"prompt": [PROMPT], "steps": STEPS, "temperature": TEMPERATURE, "seed": seed}
        async with _Client(contender.port) as client:
            return (await client.post(f"/sessions/check-{seed}/generate", body))["tokens"]

    forecaster = Forecaster(artifact)
    pieces = artifact.text.vocabulary  # type: ignore[union-attr]
    _, carries = forecaster.advance(
        np.full((1, 1), PROMPT, np.float32), np.ones(1, np.int64), forecaster.new_carry[None]
    )
    sampler = TokenSampler([Sampling(seed, TEMPERATURE)], len(pieces))
    expected, _ = forecaster.write_text(
        carries, np.ones(1, np.int64), np.full(1, STEPS), sampler, [StopWatch(Stop(), pieces)]
    )
    if asyncio.run(asked()) != expected[0]:
        raise BadRun("a text of Carryover is not the one that its model writes")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=100)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
