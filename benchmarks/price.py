"""Measure the cost of learning: the time of a pass and the bytes of a session, for the shipped network.

    python -m benchmarks.price

The kinds of learning alternate, pass by pass, on one core. The figures are medians.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from app.process_tuning import keep_freed_memory
from models.arrays import Floats
from models.artifact.files import load
from models.artifact.learning import DEFAULT_LEVELS, Learning
from models.forecaster import Forecaster

KINDS = {
    "off": Learning(),
    "intervals and surprise": Learning(levels=DEFAULT_LEVELS),
    "`gain`": Learning("gain"),
    "`rls`, 65 features": Learning("rls"),
    "`rls` and intervals": Learning("rls", levels=DEFAULT_LEVELS),
}
SESSIONS = (1, 64, 1000)
ROUNDS = 40


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    keep_freed_memory()
    shipped = load(Path(__file__).resolve().parent.parent / "models" / "zoo" / "sine")
    forecasters = {kind: Forecaster(shipped, learning=learning) for kind, learning in KINDS.items()}
    took = {sessions: _passes(forecasters, sessions) for sessions in SESSIONS}
    print("| a session learns | bytes of its carry |" + "".join(f" batch of {n} |" for n in SESSIONS))
    print("| --- | --- |" + " --- |" * len(SESSIONS))
    for kind, forecaster in forecasters.items():
        times = " | ".join(f"{took[n][kind] / n * 1e6:.1f} us" for n in SESSIONS)
        print(f"| {kind} | {4 * forecaster.carry_size:,} | {times} |")


def _passes(forecasters: dict[str, Forecaster], sessions: int) -> dict[str, float]:
    """Seconds of one pass of one observation each, by kind."""
    draw = np.random.default_rng(0)
    carries: dict[str, Floats] = {
        kind: np.repeat(forecaster.new_carry[None], sessions, axis=0)
        for kind, forecaster in forecasters.items()
    }
    one_each = np.ones(sessions, np.int64)
    seconds: dict[str, list[float]] = {kind: [] for kind in forecasters}
    for _ in range(ROUNDS):
        observations = draw.normal(size=(sessions, 1)).astype(np.float32)
        for kind, forecaster in forecasters.items():
            began = time.perf_counter()
            _, carries[kind] = forecaster.advance(observations, one_each, carries[kind])
            seconds[kind].append(time.perf_counter() - began)
    return {kind: statistics.median(passes) for kind, passes in seconds.items()}


if __name__ == "__main__":
    main()
