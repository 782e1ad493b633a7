"""What a step costs by `Cells` and by torch's modules, over batches and lengths of chunks.

python -m benchmarks.kernels [--hidden 64] [--layers 1] [--cell lstm]

The two are timed in turn, in processor time, and the least of all rounds counts.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from models.arrays import Floats, Ints
from models.nets.architecture import CELLS, Architecture
from models.nets.native import NativeNet
from models.nets.native_torch import TorchNet
from models.nets.recurrent import RecurrentNetwork, weights_of

BATCHES = (1, 2, 8, 16, 64, 256)
LENGTHS = (1, 2, 5, 10, 25, 50, 200)
SECONDS = 0.4  # of rounds for each row of the table
MIN_ROUNDS = 5


def main() -> None:
    """Print microseconds a step of one session; `mixed` is lengths from 1 to that of the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--cell", choices=CELLS, default="lstm")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    torch.manual_seed(0)
    architecture = Architecture(options.cell)
    network = RecurrentNetwork(1, options.hidden, options.layers, 1, architecture=architecture).eval()
    cells, torch_only = NativeNet(weights_of(network), architecture), TorchNet(network, "cpu")
    random = np.random.default_rng(0)
    print("batch  steps   equal: cells  network   mixed: cells  network")
    for batch in BATCHES:
        carries = 0.1 * random.standard_normal((batch, cells.state_size), dtype=np.float32)
        for steps in LENGTHS:
            figures = []
            for lengths in (np.full(batch, steps), random.integers(1, steps, batch, endpoint=True)):
                figures += _least([cells, torch_only], lengths, carries, random)
            print("{:5}  {:5}        {:7.2f}  {:7.2f}        {:7.2f}  {:7.2f}".format(batch, steps, *figures))


def _least(
    networks: list[NativeNet | TorchNet], lengths: Ints, carries: Floats, random: np.random.Generator
) -> list[float]:
    total = int(lengths.sum())
    scaled = random.standard_normal((total, 1), dtype=np.float32)
    rounds: list[list[float]] = []
    end = time.perf_counter() + SECONDS
    while len(rounds) < MIN_ROUNDS or time.perf_counter() < end:
        rounds.append([_cpu_seconds(network, scaled, lengths, carries) for network in networks])
    return [1e6 * min(each) / total for each in zip(*rounds, strict=True)]


def _cpu_seconds(network: NativeNet | TorchNet, scaled: Floats, lengths: Ints, carries: Floats) -> float:
    began = time.thread_time()
    network.advance(scaled, lengths, carries)
    return time.thread_time() - began


if __name__ == "__main__":
    main()
