"""Small graphs with a state, made with `onnx.helper` as their authors would write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from models.artifact.graph_artifact import GraphArtifact, Samples, SpeechEvents
from models.nets.signature import Constant, Control, Feedback, Port, Signature, State, Steps

OPSET, IR_VERSION = 17, 9
KINDS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
Value = tuple[str, str, Sequence[Any]]  # name, dtype and shape of a graph's input or output


def graph_bytes(
    nodes: Sequence[Any], inputs: Sequence[Value], outputs: Sequence[Value], **weights: np.ndarray
) -> bytes:
    """A checked ONNX file."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, KINDS[dtype], shape) for name, dtype, shape in inputs],
        [helper.make_tensor_value_info(name, KINDS[dtype], shape) for name, dtype, shape in outputs],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


node = helper.make_node


def counter(dtype: str = "int64", name: str = "counter") -> GraphArtifact:
    """The sum of all that came in, and how often it came: whole numbers, exact up to 2**53."""
    one = np.ones((1, 1), np.dtype(dtype))
    graph = graph_bytes(
        [node("Add", ["sum", "step"], ["sum_out"]), node("Add", ["calls", "one"], ["calls_out"])],
        [("step", dtype, ["b", 1]), ("sum", dtype, ["b", 1]), ("calls", dtype, ["b", 1])],
        [("sum_out", dtype, ["b", 1]), ("calls_out", dtype, ["b", 1])],
        one=one,
    )
    signature = Signature(
        inputs=(Port("step", "step", dtype, (1,)),),
        outputs=(Port("sum", "sum_out", dtype, (1,)),),
        states=(
            State("sum", "sum_out", np.full((1,), -3, dtype)),
            State("calls", "calls_out", np.zeros((1,), dtype)),
        ),
    )
    return GraphArtifact(name, graph, OPSET, signature, Feedback({"step": "sum"}))


def convolution(name: str = "convolution") -> GraphArtifact:
    """Two causal convolutions over 3 channels, each with its own last samples as its state."""
    random = np.random.default_rng(5)
    weights = {f"w{i}": (0.4 * random.standard_normal((3, 3, 3))).astype(np.float32) for i in range(2)}
    nodes, x = [], "x"
    for i in range(2):
        nodes += [
            node("Concat", [f"past{i}", x], [f"seen{i}"], axis=2),
            node("Conv", [f"seen{i}", f"w{i}"], [f"conv{i}"]),
            node("Tanh", [f"conv{i}"], [f"y{i}"]),
            node("Slice", [f"seen{i}", "from", "to", "axis"], [f"next{i}"]),
        ]
        x = f"y{i}"
    graph = graph_bytes(
        nodes,
        [
            ("x", "float32", ["b", 3, "t"]),
            ("past0", "float32", ["b", 3, 2]),
            ("past1", "float32", ["b", 3, 2]),
        ],
        [
            ("y1", "float32", ["b", 3, "t"]),
            ("next0", "float32", ["b", 3, 2]),
            ("next1", "float32", ["b", 3, 2]),
        ],
        **{"from": np.array([-2]), "to": np.array([2**31]), "axis": np.array([2])},
        **weights,
    )
    signature = Signature(
        inputs=(Port("x", "x", shape=(3,)),),
        outputs=(Port("y", "y1", shape=(3,)),),
        states=tuple(State(f"past{i}", f"next{i}", np.zeros((3, 2), np.float32)) for i in range(2)),
        steps=Steps(axis=2, per_call=None),
    )
    return GraphArtifact(name, graph, OPSET, signature, Feedback({"x": "y"}))


def gru(name: str = "gru", hidden: int = 8) -> GraphArtifact:
    """A GRU over two features with a learnt initial state and a head of two layers."""
    random = np.random.default_rng(6)

    def draw(*shape: int) -> np.ndarray:
        return (0.5 * random.standard_normal(shape)).astype(np.float32)

    nodes = [
        node(
            "GRU", ["x", "w", "r", "b", "", "h"], ["all", "h_out"], hidden_size=hidden, linear_before_reset=1
        ),
        node("Squeeze", ["all", "direction"], ["hs"]),
        node("MatMul", ["hs", "w1"], ["m1"]),
        node("Relu", ["m1"], ["a1"]),
        node("MatMul", ["a1", "w2"], ["y"]),
    ]
    graph = graph_bytes(
        nodes,
        [("x", "float32", ["t", "n", 2]), ("h", "float32", [1, "n", hidden])],
        [("y", "float32", ["t", "n", 2]), ("h_out", "float32", [1, "n", hidden])],
        w=draw(1, 3 * hidden, 2),
        r=draw(1, 3 * hidden, hidden),
        b=draw(1, 6 * hidden),
        direction=np.array([1]),
        w1=draw(hidden, 6),
        w2=draw(6, 2),
    )
    signature = Signature(
        inputs=(Port("x", "x", shape=(2,), batch_axis=1, columns=("flow", "level")),),
        outputs=(Port("y", "y", shape=(2,), batch_axis=1),),
        states=(State("h", "h_out", draw(1, hidden), batch_axis=1),),
        steps=Steps(axis=0, per_call=None),
    )
    return GraphArtifact(name, graph, OPSET, signature, Feedback({"x": "y"}))


def characters(name: str = "characters", vocabulary: int = 30, hidden: int = 12) -> GraphArtifact:
    """An embedding and an LSTM over tokens: the logits of the next token, and whether one is likely."""
    random = np.random.default_rng(7)

    def draw(*shape: int) -> np.ndarray:
        return (0.5 * random.standard_normal(shape)).astype(np.float32)

    nodes = [
        node("Gather", ["table", "token"], ["x"]),  # [t, b, 6]
        node("LSTM", ["x", "w", "r", "b", "", "h", "c"], ["all", "h_out", "c_out"], hidden_size=hidden),
        node("Squeeze", ["all", "direction"], ["hs"]),
        node("MatMul", ["hs", "out"], ["logits"]),
        node("ArgMax", ["logits"], ["best"], axis=2, keepdims=0),
        node("ReduceMax", ["logits"], ["highest"], axes=[2], keepdims=0),
        node("Greater", ["highest", "bar"], ["likely"]),
    ]
    graph = graph_bytes(
        nodes,
        [
            ("token", "int64", ["t", "b"]),
            ("h", "float32", [1, "b", hidden]),
            ("c", "float32", [1, "b", hidden]),
        ],
        [
            ("logits", "float32", ["t", "b", vocabulary]),
            ("best", "int64", ["t", "b"]),
            ("likely", "bool", ["t", "b"]),
            ("h_out", "float32", [1, "b", hidden]),
            ("c_out", "float32", [1, "b", hidden]),
        ],
        table=draw(vocabulary, 6),
        w=draw(1, 4 * hidden, 6),
        r=draw(1, 4 * hidden, hidden),
        b=draw(1, 8 * hidden),
        direction=np.array([1]),
        out=draw(hidden, vocabulary),
        bar=np.array(0.5, np.float32),
    )
    signature = Signature(
        inputs=(Port("token", "token", "int64", (), batch_axis=1, range=(0, vocabulary - 1)),),
        outputs=(
            Port("logits", "logits", shape=(vocabulary,), batch_axis=1, kind="logits"),
            Port("best", "best", "int64", (), batch_axis=1),
            Port("likely", "likely", "bool", (), batch_axis=1),
        ),
        states=tuple(State(s, f"{s}_out", np.zeros((1, hidden), np.float32), batch_axis=1) for s in "hc"),
        steps=Steps(axis=0, per_call=None),
    )
    return GraphArtifact(name, graph, OPSET, signature, Feedback({"token": "best"}))


def frames(name: str = "frames") -> GraphArtifact:
    """A detector over frames of 4 samples with 3 of context, two inputs, a constant and Triton's controls.

    `energy` is the sum of the squares of context and frame, times `rate`; `peak` in float16 keeps the largest
    sample of the session, where the control says that it begins, anew; `loud` keeps whether any was above 1.
    """
    nodes = [
        node("Mul", ["audio", "audio"], ["squares"]),
        node("ReduceSum", ["squares", "last"], ["sums"], keepdims=1),
        node("Mul", ["sums", "gain"], ["energy0"]),
        node("Mul", ["energy0", "rate"], ["energy"]),
        node("ReduceMax", ["audio"], ["highest"], axes=[1], keepdims=1),
        node("Cast", ["highest"], ["highest16"], to=TensorProto.FLOAT16),
        node("Equal", ["start", "one"], ["begins"]),
        node("Where", ["begins", "highest16", "peak"], ["before"]),
        node("Max", ["before", "highest16"], ["peak_out"]),
        node("Greater", ["highest", "one"], ["above"]),
        node("Or", ["loud", "above"], ["loud_out"]),
        node("Identity", ["peak_out"], ["peak_shown"]),
        node("Cast", ["loud_out"], ["loud_shown"], to=TensorProto.UINT8),
    ]
    graph = graph_bytes(
        nodes,
        [
            ("audio", "float32", ["b", 7]),
            ("gain", "float32", ["b", 1]),
            ("rate", "float32", []),
            ("start", "float32", ["b", 1]),
            ("peak", "float16", ["b", 1]),
            ("loud", "bool", ["b", 1]),
        ],
        [
            ("energy", "float32", ["b", 1]),
            ("peak_shown", "float16", ["b", 1]),
            ("loud_shown", "uint8", ["b", 1]),
            ("peak_out", "float16", ["b", 1]),
            ("loud_out", "bool", ["b", 1]),
        ],
        last=np.array([1]),
        one=np.array(1, np.float32),
    )
    signature = Signature(
        inputs=(Port("audio", "audio", shape=(4,), context=3), Port("gain", "gain", shape=(1,))),
        outputs=(
            Port("energy", "energy", shape=(1,)),
            Port("peak", "peak_shown", "float16", (1,)),
            Port("loud", "loud_shown", "uint8", (1,)),
        ),
        states=(
            State("peak", "peak_out", np.zeros(1, np.float16)),
            State("loud", "loud_out", np.zeros(1, np.bool_)),
        ),
        constants=(Constant("rate", np.array(2, np.float32)),),
        controls=(Control("start", "start"),),
    )
    return GraphArtifact(name, graph, OPSET, signature)


def endless(name: str = "endless") -> GraphArtifact:
    """It multiplies matrices for a minute when the input is above 0; a loop that never ends is not loaded."""
    products = 400
    nodes = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Greater", ["most", "zero"], ["go"]),
        node("Where", ["go", "many", "few"], ["size"]),
        node("ConstantOfShape", ["size"], ["m0"]),
        *(node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(products)),
        node("ReduceMax", [f"m{products}"], ["nothing"], keepdims=0),
        node("Add", ["state", "nothing"], ["state_out"]),
        node("Identity", ["state_out"], ["y"]),
    ]
    graph = graph_bytes(
        nodes,
        [("x", "float32", ["b", 1]), ("state", "float32", ["b", 1])],
        [("y", "float32", ["b", 1]), ("state_out", "float32", ["b", 1])],
        zero=np.array(0, np.float32),
        many=np.array([1500, 1500]),
        few=np.array([1, 1]),
    )
    signature = Signature(
        inputs=(Port("x", "x", shape=(1,)),),
        outputs=(Port("y", "y", shape=(1,)),),
        states=(State("state", "state_out", np.zeros(1, np.float32)),),
    )
    return GraphArtifact(name, graph, OPSET, signature)


GRAPHS: dict[str, Callable[[], GraphArtifact]] = {
    "counter": counter,
    "convolution": convolution,
    "gru": gru,
    "characters": characters,
    "frames": frames,
}


def reference(name: str, series: np.ndarray) -> np.ndarray:
    """[steps, outputs] of the graph of this name, called by onnxruntime alone over the whole series."""
    if name == "counter":
        return -3 + np.cumsum(series, axis=0)
    if name == "frames":
        samples, gain = series[:, :4], series[:, 4]
        seen = np.concatenate([np.zeros(3), samples.ravel()])
        windows = np.stack([seen[4 * i : 4 * i + 7] for i in range(len(series))])
        peak = np.maximum.accumulate(windows.max(axis=1).astype(np.float16))
        loud = np.maximum.accumulate(windows.max(axis=1) > 1)
        return np.stack([2 * gain * (windows**2).sum(axis=1), peak, loud], axis=1)
    artifact = GRAPHS[name]()
    signature = artifact.signature
    session = onnxruntime.InferenceSession(artifact.graph, providers=["CPUExecutionProvider"])
    (port,) = signature.inputs
    feeds = {state.tensor: np.expand_dims(state.initial, state.batch_axis) for state in signature.states}
    batch_first = series.reshape(1, len(series), *port.shape).astype(port.dtype)
    places = (port.batch_axis, signature.steps.axis)
    feeds[port.tensor] = np.moveaxis(batch_first, (0, 1), places)
    outputs = session.run([output.tensor for output in signature.outputs], feeds)
    by_step = [np.moveaxis(output, places, (0, 1)).reshape(len(series), -1) for output in outputs]
    return np.concatenate(by_step, axis=1)


def observations(name: str, count: int, seed: int = 0) -> np.ndarray:
    """[count, inputs] of the graph of this name."""
    random = np.random.default_rng(seed)
    if name == "counter":
        return random.integers(-(2**40), 2**40, (count, 1)).astype(np.float64)
    if name == "characters":
        return random.integers(0, 30, (count, 1)).astype(np.float64)
    width = {"convolution": 3, "gru": 2, "frames": 5}[name]
    return random.standard_normal((count, width)).astype(np.float32)


def loudness(name: str = "loudness", frame: int = 8, context: int = 2, rate: int = 8000) -> GraphArtifact:
    """How loud a frame of samples is, smoothed over the frames: a probability, with events of speech."""
    nodes = [
        node("Abs", ["x"], ["size"]),
        node("ReduceMean", ["size"], ["mean"], axes=[1], keepdims=1),
        node("Mul", ["mean", "gain"], ["loud"]),
        node("Mul", ["level", "keep"], ["kept"]),
        node("Add", ["loud", "kept"], ["sum"]),
        node("Mul", ["sum", "half"], ["level_out"]),
        node("Tanh", ["level_out"], ["y"]),
    ]
    graph = graph_bytes(
        nodes,
        [("x", "float32", ["b", frame + context]), ("level", "float32", ["b", 1])],
        [("y", "float32", ["b", 1]), ("level_out", "float32", ["b", 1])],
        gain=np.array([4], np.float32),
        keep=np.array([0.5], np.float32),
        half=np.array([0.5], np.float32),
    )
    signature = Signature(
        inputs=(Port("audio", "x", shape=(frame,), context=context),),
        outputs=(Port("speech", "y", shape=(1,), kind="probability"),),
        states=(State("level", "level_out", np.zeros((1,), np.float32)),),
    )
    events = SpeechEvents("speech", threshold=0.5, min_speech_ms=2, min_silence_ms=4, speech_pad_ms=1)
    return GraphArtifact(name, graph, OPSET, signature, samples=Samples(rate, events))
