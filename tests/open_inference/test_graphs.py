"""Graphs by Triton's own clients: their inputs and outputs by name, type and shape, and their states."""

from __future__ import annotations

from contextlib import asynccontextmanager

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tritonclient.utils import InferenceServerException

from models.artifact.files import save
from models.artifact.graph_artifact import GraphArtifact
from models.nets.signature import Control, Port, Signature, State
from tests.helpers import graphs
from tests.helpers.triton import CLIENTS

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> str:
    return "memory"


def accumulator() -> GraphArtifact:
    """As Triton's documentation of implicit state has it: the sum of a sequence, anew where it starts."""
    nodes = [
        graphs.node("Cast", ["START"], ["starts"], to=onnx.TensorProto.BOOL),
        graphs.node("Where", ["starts", "zero", "INPUT_STATE"], ["before"]),
        graphs.node("Add", ["INPUT", "before"], ["OUTPUT"]),
        graphs.node("Identity", ["OUTPUT"], ["OUTPUT_STATE"]),
    ]
    tensors = [(name, "int32", ["b", 1]) for name in ("INPUT", "INPUT_STATE", "START", "READY")]
    outputs = [(name, "int32", ["b", 1]) for name in ("OUTPUT", "OUTPUT_STATE")]
    graph = graphs.graph_bytes(nodes, tensors, outputs, zero=np.zeros((1, 1), np.int32))
    signature = Signature(
        inputs=(Port("INPUT", "INPUT", "int32", (1,)),),
        outputs=(Port("OUTPUT", "OUTPUT", "int32", (1,)),),
        states=(State("INPUT_STATE", "OUTPUT_STATE", np.zeros(1, np.int32)),),
        controls=(Control("START", "start", "int32"), Control("READY", "ready", "int32")),
    )
    return GraphArtifact("accumulator", graph, graphs.OPSET, signature)


def halves() -> GraphArtifact:
    """A running mean in float16 of all that came in, and whether it is above 1."""
    nodes = [
        graphs.node("Add", ["x", "sum"], ["sum_out"]),
        graphs.node("Add", ["count", "one"], ["count_out"]),
        graphs.node("Div", ["sum_out", "count_out"], ["mean"]),
        graphs.node("Greater", ["mean", "one"], ["high"]),
    ]
    inputs = [(name, "float16", ["b", 2]) for name in ("x", "sum", "count")]
    outputs = [(name, "float16", ["b", 2]) for name in ("mean", "sum_out", "count_out")]
    graph = graphs.graph_bytes(
        nodes, inputs, [*outputs, ("high", "bool", ["b", 2])], one=np.ones((1, 1), np.float16)
    )
    signature = Signature(
        inputs=(Port("x", "x", "float16", (2,)),),
        outputs=(Port("mean", "mean", "float16", (2,)), Port("high", "high", "bool", (2,))),
        states=tuple(State(name, f"{name}_out", np.zeros(2, np.float16)) for name in ("sum", "count")),
    )
    return GraphArtifact("halves", graph, graphs.OPSET, signature)


@pytest.fixture(scope="module")
def graph_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    makes = [graphs.counter, graphs.characters, graphs.frames, graphs.gru, accumulator, halves]
    for artifact in (make() for make in makes):
        save(artifact, folder / artifact.name)
    return folder


@pytest.fixture(params=CLIENTS, ids=lambda client: client.name)
def serve(request, start_hot, graph_folder):
    """`async with serve() as client`: for every client."""

    @asynccontextmanager
    async def serve():
        changes = {"models": (graph_folder,), "default_model": "counter", "grpc_port": 0}
        async with start_hot(**changes | request.param.settings) as service:
            client = request.param(service)
            await client.open()
            try:
                yield client
            finally:
                await client.close()

    return serve


async def infer(client, model, tensors, sequence, *, start=False, end=False, raw=True, outputs=None):
    """The client's result of sending named arrays, with the batch axis, as they are."""
    kinds = {"float16": "FP16", "float32": "FP32", "int32": "INT32", "int64": "INT64"}
    inputs = []
    for name, array in tensors.items():
        made = client.tensors.InferInput(name, array.shape, kinds[array.dtype.name])
        made.set_data_from_numpy(array, **({} if raw else {"binary_data": False}))
        inputs.append(made)
    wanted = None if outputs is None else [client.tensors.InferRequestedOutput(name) for name in outputs]
    named = {"sequence_id": sequence, "sequence_start": start, "sequence_end": end, "outputs": wanted}
    return await client.call("infer", model, inputs, **named)


async def test_an_int64_counter_is_exact(serve):
    numbers = np.array([2**40 + 1, -5, 2**50], np.int64).reshape(1, 3, 1)
    async with serve() as client:
        result = await infer(client, "counter", {"step": numbers}, 7, start=True)
        got = result.as_numpy("sum")
        assert (got.dtype, got.shape) == (np.int64, (1, 3, 1))
        assert_array_equal(got[0], -3 + np.cumsum(numbers[0], axis=0))
        # One step without an axis for the steps, as a client of the graph itself sends it.
        result = await infer(client, "counter", {"step": np.array([[1]])}, 7)
        assert result.as_numpy("sum").tolist() == [[2**40 + 2**50 - 6]]
        if "http" in client.name:
            result = await infer(client, "counter", {"step": np.array([[2**40 + 1]])}, 7, raw=False)
            assert result.as_numpy("sum").tolist() == [[2**41 + 2**50 - 5]]


async def test_float16_and_booleans_go_round(serve):
    rows = np.array([[0.5, 2], [1, 3.25], [0.25, -8]], np.float16)
    async with serve() as client:
        result = await infer(client, "halves", {"x": rows[None]}, "a", start=True)
        mean, high = result.as_numpy("mean"), result.as_numpy("high")
        assert (mean.dtype, mean.shape) == (np.float16, (1, 3, 2))
        assert_allclose(mean[0], np.cumsum(rows, axis=0) / np.arange(1, 4)[:, None], rtol=1e-3)
        assert (high.dtype, high.tolist()) == (np.bool_, [[[False, True], [False, True], [False, False]]])


async def test_several_inputs_and_outputs_by_name(serve):
    rows = graphs.observations("frames", 3)
    want = graphs.reference("frames", rows)
    tensors = {"gain": rows[None, :, 4:], "audio": rows[None, :, :4]}
    async with serve() as client:
        result = await infer(client, "frames", tensors, 1, start=True)
        assert_allclose(result.as_numpy("energy")[0], want[:, :1], rtol=1e-5)
        assert (result.as_numpy("peak").dtype, result.as_numpy("loud").dtype) == (np.float16, np.uint8)
        assert_array_equal(result.as_numpy("peak")[0], want[:, 1:2])
        only = await infer(client, "frames", tensors, 2, start=True, outputs=["loud"])
        assert_array_equal(only.as_numpy("loud")[0], want[:, 2:])
        assert only.as_numpy("energy") is None
        for wrong, message in (
            ({"audio": rows[None, :, :4]}, r"missing required input\(s\) \['gain'\]"),
            (tensors | {"gain": rows[None, :2, 4:]}, "input 'audio' has 3 steps, input 'gain' has 2"),
            (tensors | {"gain": rows[None, :, 4:].astype(np.float16)}, "expects 'FP32'"),
            (tensors | {"pitch": rows[None, :, 4:]}, "unexpected inference input 'pitch'"),
        ):
            with pytest.raises(InferenceServerException, match=message):
                await infer(client, "frames", wrong, 1)


async def test_a_token_out_of_range_is_refused(serve):
    async with serve() as client:
        tokens = np.array([[3, 30]])
        with pytest.raises(InferenceServerException, match="row 1: token is 30, which is not from 0 to 29"):
            await infer(client, "characters", {"token": tokens}, 1, start=True)
        result = await infer(client, "characters", {"token": tokens[:, :1]}, 1, start=True)
        assert result.as_numpy("logits").shape == (1, 1, 30)
        assert result.as_numpy("best").shape == (1, 1)


async def test_a_sequence_of_tritons_accumulator_starts_anew(serve):
    async with serve() as client:
        got = []
        for start in (True, False, False, True, False):
            result = await infer(client, "accumulator", {"INPUT": np.array([[10]], np.int32)}, 5, start=start)
            got += result.as_numpy("OUTPUT").ravel().tolist()
        assert got == [10, 20, 30, 10, 20]


async def test_metadata_and_configuration_are_those_of_the_graph(serve):
    async with serve() as client:
        named = {"as_json": True} if client.name.startswith("grpc") else {}
        metadata = await client.call("get_model_metadata", "characters", **named)
        shapes = [
            (tensor["name"], tensor["datatype"], [int(size) for size in tensor["shape"]])
            for tensor in (*metadata["inputs"], *metadata["outputs"])
        ]
        assert shapes[:4] == [
            ("token", "INT64", [-1, -1]),
            ("logits", "FP32", [-1, -1, 30]),
            ("best", "INT64", [-1, -1]),
            ("likely", "BOOL", [-1, -1]),
        ]
        answer = await client.call("get_model_config", "accumulator", **named)
        batching = answer.get("config", answer)["sequence_batching"]
        (state,) = batching["state"]
        assert (state["input_name"], state["output_name"]) == ("INPUT_STATE", "OUTPUT_STATE")
        assert (state["data_type"], [int(size) for size in state["dims"]]) == ("TYPE_INT32", [1])
        assert state["initial_state"][0]["zero_data"]
        names = [entry["name"] for entry in batching["control_input"]]
        assert names == ["START", "READY"]
        assert batching["control_input"][0]["control"][0]["int32_false_true"] == [0, 1]
