"""Run scenarios under load, keep each history, and have it checked."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.config import SHIPPED_MODELS
from benchmarks.failover.checker import check, read
from benchmarks.failover.clients import Crowd
from benchmarks.failover.deployment import Deployment
from benchmarks.failover.scenarios import Scenario
from models.artifact.files import load
from models.forecaster import Forecaster

AFTER_SECONDS = 1.0  # of load behind a scenario's end


@dataclass(frozen=True)
class Outcome:
    """What one scenario came to. `complaints` are the checker's; `retries` the clients' second tries."""

    name: str
    recovery_seconds: float
    chunks: int
    retries: int
    fenced: int
    complaints: Sequence[str]


class Plain:
    """What the shipped model answers a stream that nobody interrupts."""

    def __init__(self) -> None:
        self._forecaster = Forecaster(load(SHIPPED_MODELS / "sine"))

    def __call__(self, observations: Sequence[float]) -> list[float]:
        rows = np.array(observations, np.float32)[:, None]
        carries = np.zeros((1, self._forecaster.carry_size), np.float32)
        predictions, _ = self._forecaster.advance(rows, np.array([len(rows)]), carries)
        result: list[float] = predictions[:, 0].tolist()
        return result


async def play(
    deployment: Deployment, scenario: Scenario, folder: Path, clients: int, think_seconds: float = 0.02
) -> Outcome:
    """One scenario: load before it, through it and after it; then its history is written and checked."""
    name = scenario.__name__
    before = deployment.fenced()
    crowd = Crowd(deployment.balancer.port, clients, think_seconds, prefix=f"{name}-{os.urandom(2).hex()}-")
    crowd.start()
    history = folder / f"{name}.jsonl"
    try:
        await crowd.all_answered_since(0.0)
        recovery = await scenario(deployment, crowd)
        await asyncio.sleep(AFTER_SECONDS)
    finally:
        stopped = await asyncio.gather(crowd.stop(), return_exceptions=True)
        history.write_text("".join(json.dumps(event) + "\n" for event in crowd.history))
    complaints = [*(str(error) for error in stopped if error), *check(read(history), Plain())]
    chunks = sum(event.get("outcome") in ("applied", "replayed") for event in crowd.history)
    fenced = sum(max(0, now - then) for now, then in zip(deployment.fenced(), before, strict=True))
    return Outcome(name, recovery, chunks, crowd.retries, fenced, complaints)
