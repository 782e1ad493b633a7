"""Networks on a GPU beside the same networks on one core of the CPU: one command of at most five minutes.

    python -m benchmarks.gpu [--sessions 4096] [--hidden 1024] [--seconds 20]

An LSTM of two layers, run by torch, and a GRU as an ONNX graph, run by onnxruntime. Each call advances every
session by one observation. Two ways are measured on the GPU:

- through memory, as the server does it: a batch's carries go to the device and come back for the commit;
- kept: the carries stay on the device from one call to the next. The server does not do this.

The outputs of every way must equal those of the CPU to 1e-4, otherwise the exit status is 1. Neither side
includes what the server does around a network. Without CUDA nothing is timed: the same code runs on the CPU,
with fewer sessions, and its outputs are compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
import torch
from threadpoolctl import threadpool_limits

from benchmarks.native_or_graph import graph_of, one_thread
from models.arrays import Floats
from models.net import Net
from models.nets.architecture import Architecture
from models.nets.graph import PROVIDERS, GraphNet, provider
from models.nets.native import NativeNet
from models.nets.native_torch import TorchNet
from models.nets.recurrent import RecurrentNetwork, weights_of
from models.nets.signature import Port, Signature, State, Steps

TOLERANCE = 1e-4
STEPS = 6  # compared
SESSIONS_WITHOUT_CUDA = 256
RUN_SECONDS = 60.0  # most that one call may take

Step = Callable[[Floats], Floats]  # observations [sessions, 1] -> outputs [sessions, 1]; it keeps the carries


def main() -> None:
    """Print what was compared and measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--sessions", type=int, help="in each batch")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing, for each way")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    has_provider = PROVIDERS[device] in onnxruntime.get_available_providers()
    sessions = options.sessions or (4096 if device == "cuda" else SESSIONS_WITHOUT_CUDA)
    if device == "cpu":
        print("No CUDA here: the outputs are compared on the CPU, and nothing is timed.")
    else:
        print(f"{torch.cuda.get_device_name()}, beside one core of the CPU")
    print(f"{sessions:,} sessions a batch, {options.hidden} units, one observation of each")
    equal = True
    for name, ways in (
        (f"LSTM 2 x {options.hidden}", lstm(options.hidden, sessions, device)),
        (f"GRU graph 1 x {options.hidden}", gru(options.hidden, sessions, device) if has_provider else None),
    ):
        if ways is None:
            print(f"{name}: left out, onnxruntime has no {PROVIDERS[device]}: pip install onnxruntime-gpu")
            continue
        base, *others = ways
        for way, difference in differences(ways, sessions).items():
            equal &= difference <= TOLERANCE
            print(f"{name}, {way}: outputs differ by at most {difference:.1e} from {base}'s", flush=True)
        if device == "cuda":
            milliseconds = {way: timed(step, sessions, options.seconds) for way, step in ways.items()}
            print(f"{name}, {base}: {milliseconds[base]:.2f} ms a batch")
            for way in others:
                ratio = milliseconds[base] / milliseconds[way]
                print(f"{name}, {way}: {milliseconds[way]:.2f} ms a batch, {ratio:.1f} times as fast")
    if not equal:
        sys.exit(f"the outputs differ by more than {TOLERANCE}")


def lstm(hidden: int, sessions: int, device: str) -> dict[str, Step]:
    """Two layers: on one core, through memory and kept on the device."""
    torch.manual_seed(0)
    network = RecurrentNetwork(1, hidden, 2, 1).eval()
    core = NativeNet(weights_of(network), network.architecture)
    copy = RecurrentNetwork(1, hidden, 2, 1).eval()
    copy.load_state_dict(network.state_dict())
    through = TorchNet(copy, device)
    return {
        "one core": through_memory(core, sessions),
        "through memory": through_memory(through, sessions),
        "kept": kept_by_torch(copy, sessions, device),
    }


def gru(hidden: int, sessions: int, device: str) -> dict[str, Step]:
    """One layer as a graph: on one core, through memory and kept on the device."""
    torch.manual_seed(1)
    graph = graph_of(RecurrentNetwork(1, hidden, 1, 1, architecture=Architecture("gru")).eval())
    signature = Signature(
        inputs=(Port("observations", "observations", shape=(1,)),),
        outputs=(Port("outputs", "outputs", shape=(1,)),),
        states=(State("state0", "moved0", np.zeros((1, hidden), np.float32), batch_axis=1),),
        steps=Steps(axis=1, per_call=None),
    )
    return {
        "one core": through_memory(GraphNet(graph, signature, "cpu", RUN_SECONDS), sessions),
        "through memory": through_memory(GraphNet(graph, signature, device, RUN_SECONDS), sessions),
        "kept": kept_by_onnxruntime(graph, signature, sessions, device),
    }


def through_memory(net: Net, sessions: int) -> Step:
    """Carries are rows in memory before and after each call."""
    carries = np.repeat(net.fresh[None], sessions, axis=0)
    lengths = np.ones(sessions, np.int64)

    def step(observations: Floats) -> Floats:
        nonlocal carries
        outputs, carries = net.advance(observations, lengths, carries)
        return np.asarray(outputs, np.float32)

    return step


def kept_by_torch(network: RecurrentNetwork, sessions: int, device: str) -> Step:
    """Carries are tensors on the device; only observations and outputs travel."""
    layers, hidden = network.recurrent.num_layers, network.recurrent.hidden_size
    state = tuple(
        torch.zeros(layers, sessions, hidden, device=device) for _ in range(network.architecture.states)
    )

    def step(observations: Floats) -> Floats:
        nonlocal state
        with torch.inference_mode():
            outputs, state = network(torch.from_numpy(observations[:, None]).to(device), state)
            return np.asarray(outputs[:, 0].cpu().numpy())

    return step


def kept_by_onnxruntime(graph: bytes, signature: Signature, sessions: int, device: str) -> Step:
    """Carries are onnxruntime's values on the device; what one call leaves is bound to the next."""
    session = onnxruntime.InferenceSession(graph, one_thread(), providers=[provider(device)])
    states: list[Any] = []
    for state in signature.states:
        fresh = np.repeat(np.expand_dims(state.initial, state.batch_axis), sessions, state.batch_axis)
        states.append(onnxruntime.OrtValue.ortvalue_from_numpy(fresh, device, 0))

    def step(observations: Floats) -> Floats:
        nonlocal states
        binding = session.io_binding()
        binding.bind_cpu_input("observations", observations[:, None])
        binding.bind_output("outputs", "cpu")
        for state, value in zip(signature.states, states, strict=True):
            binding.bind_ortvalue_input(state.tensor, value)
            binding.bind_output(state.next_tensor, device, 0)
        session.run_with_iobinding(binding)
        outputs, *states = binding.get_outputs()
        return np.asarray(outputs.numpy()[:, 0])

    return step


def differences(ways: Mapping[str, Step], sessions: int) -> dict[str, float]:
    """By way, the largest difference from the first one's outputs over several observations."""
    random = np.random.default_rng(0)
    base, *others = ways
    found = dict.fromkeys(others, 0.0)
    for _ in range(STEPS):
        observations = random.standard_normal((sessions, 1), dtype=np.float32)
        expected = ways[base](observations)
        for way in others:
            difference = float(np.abs(ways[way](observations) - expected).max())
            found[way] = max(found[way], difference)
    return found


def timed(step: Step, sessions: int, seconds: float) -> float:
    """Milliseconds a call: the median of all that began within so many seconds, and of one at least."""
    observations = np.random.default_rng(1).standard_normal((sessions, 1), dtype=np.float32)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        began = time.perf_counter()
        step(observations)  # its outputs are in memory when it returns
        taken.append(time.perf_counter() - began)
    return 1e3 * float(np.median(taken))


if __name__ == "__main__":
    main()
