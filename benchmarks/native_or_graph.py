"""Native networks beside the same networks in onnxruntime: what a native kind of cell or layer is worth.

python -m benchmarks.native_or_graph [--hidden 64]

Both compute the same numbers from the same weights, on one core. Neither side includes what the server does
around a network: gathering and scattering carries, scaling, committing. The two are timed in turn, and the
least of all rounds counts, because it is the one that other processes disturbed least.
"""

from __future__ import annotations

import argparse
import io
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from models.nets.architecture import Architecture, Embedding
from models.nets.cells import Cells
from models.nets.recurrent import RecurrentNetwork, weights_of

SHAPES = ((1, 1), (64, 1), (1024, 1), (1, 25), (1, 200))  # sessions, and observations of each
SECONDS = 0.4  # of rounds for each shape
VOCABULARY = 128
NETWORKS = {
    "LSTM": (Architecture(), 1),
    "GRU": (Architecture("gru"), 1),
    "RNN": (Architecture("rnn"), 1),
    "GRU, 64, relu, 32, relu": (Architecture("gru", (64, "relu", 32, "relu")), 1),
    "GRU, 64, gelu": (Architecture("gru", (64, "gelu")), 1),
    "LSTM, layer_norm": (Architecture("lstm", ("layer_norm",)), 1),
    "LSTM of tokens": (Architecture("lstm", embedding=Embedding(VOCABULARY, 32)), VOCABULARY),
}


def main() -> None:
    """Print microseconds a call: native, onnxruntime, and how many times faster native is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=64)
    hidden = parser.parse_args().hidden
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    print(f"{'network':24}" + "".join(f"{f'{rows} x {steps}':>24}" for rows, steps in SHAPES))
    for name, (architecture, outputs) in NETWORKS.items():
        torch.manual_seed(0)
        network = RecurrentNetwork(1, hidden, 1, outputs, architecture=architecture).eval()
        native, graph = Cells(weights_of(network), architecture), export(network)
        cells = [compare(network, native, graph, rows, steps) for rows, steps in SHAPES]
        figures = (f"{ours:.1f} / {theirs:.1f} = {theirs / ours:.2f}" for ours, theirs in cells)
        print(f"{name:24}" + "".join(f"{figure:>24}" for figure in figures), flush=True)


class _Stateless(nn.Module):
    """A network whose states are arguments and results of their own, as a graph has them."""

    def __init__(self, network: RecurrentNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, observations: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        inputs = network.embedding(observations) if network.architecture.embedding else observations
        hidden, moved = network.recur(inputs, states)
        return network.read_out(hidden), *moved


def export(network: RecurrentNetwork) -> onnxruntime.InferenceSession:
    """The network as a graph, on one thread."""
    return onnxruntime.InferenceSession(graph_of(network), one_thread(), providers=["CPUExecutionProvider"])


def one_thread() -> onnxruntime.SessionOptions:
    """Options of a session that computes on the thread that calls it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def graph_of(network: RecurrentNetwork) -> bytes:
    """The network, of one layer, as an ONNX file with a free batch and free time.

    Its inputs are `observations` and `state0` and so on, its outputs are `outputs` and `moved0` and so on.
    """
    states = [f"state{i}" for i in range(network.architecture.states)]
    moved = [f"moved{i}" for i in range(network.architecture.states)]
    tokens = network.architecture.embedding is not None
    observations = torch.zeros(2, 3, dtype=torch.int64) if tokens else torch.zeros(2, 3, 1)
    size = network.recurrent.hidden_size
    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter warns of its own deprecation, and of what torch's modules check of shapes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Stateless(network),
            (observations, *(torch.zeros(1, 2, size) for _ in states)),
            file,
            input_names=["observations", *states],
            output_names=["outputs", *moved],
            dynamic_axes={"observations": {0: "batch", 1: "time"}, "outputs": {0: "batch", 1: "time"}}
            | {name: {1: "batch"} for name in (*states, *moved)},
            dynamo=False,
        )
    content: bytes = file.getvalue()
    return content


def compare(
    network: RecurrentNetwork, native: Cells, graph: onnxruntime.InferenceSession, rows: int, steps: int
) -> tuple[float, float]:
    """Microseconds a call of both, which must give the same outputs.

    Raises
    ------
    ValueError : they differ by more than 1e-5
    """
    random = np.random.default_rng(0)
    x = random.standard_normal((rows * steps, 1), dtype=np.float32)
    feeds: dict[str, Any] = {"observations": x.reshape(rows, steps, 1)}
    if network.architecture.embedding is not None:
        x = random.integers(0, VOCABULARY, (rows * steps, 1)).astype(np.float32)
        feeds = {"observations": x.reshape(rows, steps).astype(np.int64)}
    size, count = network.recurrent.hidden_size, network.architecture.states
    feeds |= {f"state{i}": np.zeros((1, rows, size), np.float32) for i in range(count)}
    carries, lengths = np.zeros((rows, count * size), np.float32), np.full(rows, steps)
    outputs = native.advance(x, lengths, carries.copy())
    difference = float(np.abs(outputs - graph.run(None, feeds)[0].reshape(outputs.shape)).max())
    if difference > 1e-5:
        raise ValueError(f"the outputs differ by {difference}")
    if steps == 1:
        moved = np.empty_like(carries)
        ours: Callable[[], Any] = lambda: native.step(x, carries, moved)  # noqa: E731
    else:
        ours = lambda: native.advance(x, lengths, carries)  # noqa: E731
    least = _least([ours, lambda: graph.run(None, feeds)])
    return least[0], least[1]


def _least(calls: list[Callable[[], Any]]) -> list[float]:
    best = [float("inf")] * len(calls)
    end = time.perf_counter() + SECONDS
    while best[-1] == float("inf") or time.perf_counter() < end:
        for i, call in enumerate(calls):
            began = time.perf_counter()
            call()
            best[i] = min(best[i], 1e6 * (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    main()
