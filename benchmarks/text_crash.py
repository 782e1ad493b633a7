"""Kill servers while sessions write text, and compare every token with the text that is written alone.

    python -m benchmarks.text_crash [--kills 20] [--tokens 100000] [--sessions 16] [--models FOLDER]

Each session writes by server-sent events, and resumes behind the last event that it got (`Last-Event-ID`).
First one server over SQLite is killed (SIGKILL) so many times and started again. Then two replicas share a
Redis, and one of them is killed: its sessions go on at the other. The moments are random, and all in
mid-writing. At the end the tokens of each session must be those that the model writes in this process, in one
pass and alone. Otherwise the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.failover.processes import SERVER, RedisServer, Replica
from models.artifact.files import load_any
from models.forecaster import Forecaster
from models.generation.sampling import Sampling, TokenSampler
from models.generation.stopping import Stop, StopWatch

PROMPT = (1, 2)  # tokens
STEPS = 1500  # of a text at most; a session then goes on with the next
TEMPERATURE = 0.8
PAUSE_SECONDS = 0.1  # before a request is sent again
SETTINGS = {"CARRYOVER_LOG_LEVEL": "error", "CARRYOVER_FORECAST_STEPS": str(STEPS)}


@dataclass
class Report:
    """The results of all sessions."""

    kills: int = 0
    tokens: int = 0
    texts: int = 0
    resumed: int = 0  # answers behind an event that had come
    repeated: int = 0  # answers from the beginning, to a request that was sent before
    moved: int = 0  # of both, from another replica
    out_of_order: int = 0  # tokens that did not follow the one before: lost, or sent twice
    different: int = 0  # tokens that are not those of the text written alone
    sessions_that_differ: int = 0
    refusal: str = ""

    @property
    def broken(self) -> int:
        """What must be 0."""
        return self.out_of_order + self.different + bool(self.refusal)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills; {self.tokens:,} tokens in {self.texts} texts; {self.resumed} times resumed "
            f"behind an event, {self.repeated} times sent again, {self.moved} of both to another replica; "
            f"{self.out_of_order} tokens lost or doubled, {self.different} differ from the text alone "
            f"(in {self.sessions_that_differ} sessions){self.refusal and f'; {self.refusal}'}"
        )


class Writer:
    """One session, which writes text after text."""

    def __init__(self, name: str, ports: Sequence[int], seed: int, steps: int, report: Report) -> None:
        self.name, self.seed, self.steps, self.report = name, seed, steps, report
        self.texts = 0
        self.ports, self.at = ports, seed % len(ports)
        self.tokens: list[int] = []

    async def write(self, http: httpx.AsyncClient, stop: asyncio.Event) -> None:
        """Write until `stop` is set, and the text is at its end."""
        while not stop.is_set() and not self.report.refusal:
            await self._text(http)
            self.texts += 1
            self.report.texts += 1

    @property
    def _position(self) -> int:
        return len(PROMPT) + len(self.tokens) if self.tokens else 0

    async def _text(self, http: httpx.AsyncClient) -> None:
        """One text: the same request again until its end has come."""
        prompt = [] if self.tokens else list(PROMPT)
        body = {"prompt": prompt, "steps": self.steps, "temperature": TEMPERATURE, "seed": self.seed}
        body |= {"at": self._position}
        last, came_from, first = "", self.at, True
        while not self.report.refusal:
            headers = {"accept": "text/event-stream"} | ({"last-event-id": last} if last else {})
            url = f"http://127.0.0.1:{self.ports[self.at]}/sessions/{self.name}/generate"
            try:
                async with http.stream("POST", url, json=body, headers=headers) as response:
                    if response.status_code not in (200, 503):
                        self.report.refusal = f"{self.name}: {(await response.aread())[:300]!r}"
                        return
                    if response.status_code == 200:
                        self.report.resumed += bool(last)
                        self.report.moved += self.at != came_from
                        self.report.repeated += not (last or first)
                        first = False
                    async for kind, identity, data in _events(response):
                        if kind == "done":
                            return
                        if kind == "error":
                            break
                        last, came_from = identity, self.at
                        self._take(data["position"], data["token"])
            except httpx.TransportError:
                pass
            self.at = (self.at + 1) % len(self.ports)
            await asyncio.sleep(PAUSE_SECONDS)

    def _take(self, position: int, token: int) -> None:
        self.tokens.append(token)
        self.report.tokens += 1
        self.report.out_of_order += position != self._position

    def judge(self, forecaster: Forecaster) -> None:
        """Count the tokens that differ from those of one text, written alone."""
        expected = written_alone(forecaster, self.seed, len(self.tokens))
        pairs = zip(self.tokens, expected, strict=True)
        different = sum(ours != theirs for ours, theirs in pairs)
        self.report.different += different
        self.report.sessions_that_differ += different > 0


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    """Kind, id and data of each event."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])
            fields = {}


def written_alone(forecaster: Forecaster, seed: int, steps: int) -> list[int]:
    """The tokens behind the prompt, in one pass without any other text."""
    text = forecaster.artifact.text
    if text is None:
        raise ValueError("this is no model of text")
    if not steps:
        return []
    observed = np.array(PROMPT, np.float32)[:, None]
    _, carries = forecaster.advance(observed, np.array([len(PROMPT)]), forecaster.new_carry[None])
    sampler = TokenSampler([Sampling(seed, TEMPERATURE)], len(text.vocabulary), text.vocabulary.unknown)
    watch = StopWatch(Stop(), text.vocabulary)
    (tokens,), _ = forecaster.write_text(
        carries, np.array([len(PROMPT)]), np.array([steps]), sampler, [watch]
    )
    return tokens


async def write_through_kills(
    models: Path,
    folder: Path,
    store: str,
    *,
    replicas: int,
    kills: int,
    tokens: int,
    sessions: int,
    seed: int,
    steps: int = STEPS,
) -> Report:
    """Write, kill, start again, and compare.

    Parameters
    ----------
    models : an artifact of a model of text
    folder : for logs
    store : URL of the store of all replicas
    steps : tokens of a text
    """
    report, draw, stop = Report(), random.Random(seed), asyncio.Event()
    environment = SETTINGS | {"CARRYOVER_STORE": store, "CARRYOVER_MODELS": str(models)}
    servers = [Replica(folder / "replicas", environment).start() for _ in range(replicas)]
    try:
        for server in servers:
            await asyncio.to_thread(server.wait)
        ports = [server.port for server in servers]
        writers = [Writer(f"poet-{i}", ports, i, steps, report) for i in range(sessions)]
        async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=None)) as http:
            writing = [asyncio.create_task(writer.write(http, stop)) for writer in writers]
            for moment in sorted(draw.uniform(0.02, 0.98) * tokens for _ in range(kills)):
                await _until(partial(_come, report, max(moment, report.tokens + 1)), writing)
                victim = draw.choice(servers)
                victim.stop(signal.SIGKILL)
                report.kills += 1
                if report.kills < kills or replicas == 1:
                    victim.start()
                    await asyncio.to_thread(victim.wait)
            # One text of each session begins after the last kill, and comes to its end.
            goals = [writer.texts + 2 for writer in writers]
            await _until(lambda: report.tokens >= tokens and all(map(_done, writers, goals)), writing)
            stop.set()
            await asyncio.gather(*writing)
    finally:
        for server in servers:
            server.stop(signal.SIGKILL)
    forecaster = Forecaster(load_any(models))
    for writer in writers:
        writer.judge(forecaster)
    return report


def _come(report: Report, tokens: float) -> bool:
    return report.tokens >= tokens


def _done(writer: Writer, goal: int) -> bool:
    return writer.texts >= goal


async def _until(condition: Callable[[], bool], writing: Sequence[asyncio.Task[None]]) -> None:
    """Wait for a condition, or until somebody no longer writes."""
    # An event for each token would cost more than to look again.
    while not (condition() or any(task.done() for task in writing)):  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def main() -> int:
    """Print both reports."""
    options = _options()
    status = 0
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        sqlite = f"sqlite:{folder / 'carryover.sqlite'}"
        runs = {"one server over SQLite": (sqlite, 1, options.kills)}
        if SERVER is not None:
            redis = stack.enter_context(RedisServer(folder / "redis"))
            runs["two replicas over Redis"] = (redis.url, 2, 1)
        for label, (store, replicas, kills) in runs.items():
            began = time.perf_counter()
            report = asyncio.run(
                write_through_kills(
                    options.models, folder, store, replicas=replicas, kills=kills, tokens=options.tokens,
                    sessions=options.sessions, seed=options.seed,
                )
            )  # fmt: skip
            print(f"{label}: {report}; {time.perf_counter() - began:.0f} s", flush=True)
            status |= bool(report.broken)
    return status


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument(
        "--models", type=Path, default=Path("models/zoo/shakespeare"), help="an artifact of a model of text"
    )
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
