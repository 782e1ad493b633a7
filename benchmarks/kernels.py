"""Where the step changes from `LSTMCells` to `torch.nn.LSTM`: both timed over batches and lengths.

python -m benchmarks.kernels
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import models.nets.chunks as measured
from models.arrays import Floats, Ints
from models.artifact.files import load
from models.forecaster import Forecaster

SINE = Path(__file__).resolve().parent.parent / "models" / "zoo" / "sine"
BATCHES = (1, 8, 64, 256)
LENGTHS = (1, 2, 4, 8, 12, 16, 24, 50)
ROUNDS = 7


def main() -> None:
    """Print microseconds a pass, the better of the two starred."""
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    forecaster = Forecaster(load(SINE))
    random = np.random.default_rng(0)
    print("batch  steps  cells us  network us")
    for batch in BATCHES:
        for steps in LENGTHS:
            observations = random.standard_normal((batch * steps, 1), dtype=np.float32)
            lengths = np.full(batch, steps)
            carries = 0.1 * random.standard_normal((batch, forecaster.carry_size), dtype=np.float32)

            def step(
                observations: Floats = observations,
                lengths: Ints = lengths,
                carries: Floats = carries,
            ) -> None:
                forecaster.advance(observations, lengths, carries)

            cells, network = (best(step, limit) for limit in (steps, 0))
            stars = ("*", " ") if cells < network else (" ", "*")
            print(f"{batch:5}  {steps:5}  {cells:7.0f}{stars[0]}  {network:9.0f}{stars[1]}")


def best(step: Callable[[], None], short_chunk: int) -> float:
    """The least microseconds of a call over the rounds, with this many steps counting as short."""
    before, measured.SHORT_CHUNK = measured.SHORT_CHUNK, short_chunk
    try:
        step()
        rounds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for _ in range(20):
                step()
            rounds.append((time.perf_counter() - began) / 20 * 1e6)
        return min(rounds)
    finally:
        measured.SHORT_CHUNK = before


if __name__ == "__main__":
    main()
