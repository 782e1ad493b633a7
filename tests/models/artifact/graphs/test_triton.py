"""Triton's stateful examples, written anew from its user guide, import by config.pbtxt: right numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from models.artifact.graph_artifact import GraphArtifact
from models.artifact.graphs.child import make_artifact
from models.artifact.graphs.choices import Choices, check_choices
from models.artifact.graphs.limits import parse_graph
from models.artifact.graphs.text_format import parse_text
from models.artifact.graphs.triton import read_triton
from models.errors import BadArtifact
from models.nets.graph import GraphNet
from tests.helpers.onnx_files import content, graph, node

CONTROLS = """
  control_input [
    {
      name: "START"
      control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ]
    },
    {
      name: "READY"
      control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ]
    }
  ]
"""
# Implicit state: the model adds its input to the state, from 0 where a sequence starts.
ACCUMULATOR = (
    """
name: "accumulator"
platform: "onnxruntime_onnx"
max_batch_size: 8
instance_group [ { kind: KIND_CPU count: 2 } ]
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  oldest { max_candidate_sequences: 4 }
"""
    + CONTROLS
    + """
  state [
    { input_name: "INPUT_STATE" output_name: "OUTPUT_STATE" data_type: TYPE_INT32 dims: [ 1 ] }
  ]
}
input [ { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
)


def accumulator() -> onnx.GraphProto:
    """OUTPUT = OUTPUT_STATE = INPUT + (START ? 0 : INPUT_STATE), while READY."""
    row = ("int32", ["batch", 1])
    nodes = [
        node("Cast", ["START"], ["starts"], to=onnx.TensorProto.BOOL),
        node("Where", ["starts", "zero", "INPUT_STATE"], ["before"]),
        node("Add", ["before", "INPUT"], ["sum"]),
        node("Mul", ["sum", "READY"], ["OUTPUT"]),
        node("Identity", ["OUTPUT"], ["OUTPUT_STATE"]),
    ]
    fed = dict.fromkeys(("INPUT", "INPUT_STATE", "START", "READY"), row)
    fetched = {"OUTPUT": row, "OUTPUT_STATE": row}
    return graph(fed, fetched, nodes, {"zero": np.array(0, np.int32)})


def initial_accumulator() -> onnx.GraphProto:
    """OUTPUT = OUTPUT_STATE = INPUT + INPUT_STATE, of two numbers."""
    row = ("float32", ["batch", 2])
    nodes = [
        node("Add", ["INPUT", "INPUT_STATE"], ["OUTPUT"]),
        node("Identity", ["OUTPUT"], ["OUTPUT_STATE"]),
    ]
    return graph({"INPUT": row, "INPUT_STATE": row}, {"OUTPUT": row, "OUTPUT_STATE": row}, nodes)


def initial_config(initial: str) -> str:
    return f"""
max_batch_size: 4
input {{ name: "INPUT" data_type: TYPE_FP32 dims: [ 2 ] }}
output {{ name: "OUTPUT" data_type: TYPE_FP32 dims: [ 2 ] }}
sequence_batching {{
  state [ {{
    input_name: "INPUT_STATE" output_name: "OUTPUT_STATE" data_type: TYPE_FP32 dims: [ 2 ]
    initial_state: {{ data_type: TYPE_FP32 dims: [ 2 ] {initial} name: "first" }}
  }} ]
}}
"""


def imported(folder: Path, network: onnx.GraphProto, config: str) -> GraphArtifact:
    (folder / "config.pbtxt").write_text(config)
    choices = read_triton(folder / "config.pbtxt", Choices())
    check_choices(parse_graph(content(network)), choices)
    return make_artifact(content(network), "triton", choices)


def answers(artifact: GraphArtifact, rows: list[list[float]]) -> list[list[float]]:
    """Of a fresh session, a row a chunk."""
    net = GraphNet(artifact.graph, artifact.signature, "cpu", 10)
    carries, made = net.fresh[None].copy(), []
    for row in rows:
        answer, carries = net.advance(np.array([row], net.input_type), np.array([1]), carries)
        made.append(answer[0].tolist())
    return made


def test_the_accumulator_counts_and_starts_anew_with_a_session(tmp_path):
    artifact = imported(tmp_path, accumulator(), ACCUMULATOR)
    assert answers(artifact, [[5], [7], [-2]]) == [[5], [12], [10]]
    assert [control.kind for control in artifact.signature.controls] == ["start", "ready"]
    assert [port.name for port in artifact.inputs] == ["INPUT"]
    assert [port.name for port in artifact.outputs] == ["OUTPUT"]


def test_a_control_has_the_shape_and_the_type_that_the_graph_declares(tmp_path):
    """START as [batch] and float32, where the configuration says int32."""
    row = ("float32", ["batch", 1])
    nodes = [
        node("Cast", ["START"], ["starts"], to=onnx.TensorProto.BOOL),
        node("Unsqueeze", ["starts", "one"], ["column"]),
        node("Where", ["column", "zero", "INPUT_STATE"], ["before"]),
        node("Add", ["before", "INPUT"], ["OUTPUT"]),
        node("Identity", ["OUTPUT"], ["OUTPUT_STATE"]),
    ]
    fed = {"INPUT": row, "INPUT_STATE": row, "START": ("float32", ["batch"])}
    weights = {"zero": np.array(0, np.float32), "one": np.array([1])}
    network = graph(fed, {"OUTPUT": row, "OUTPUT_STATE": row}, nodes, weights)
    control = (
        'control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } }'
    )
    config = (
        initial_config("zero_data: true").replace("state [", f"{control} state [").replace("[ 2 ]", "[ 1 ]")
    )
    assert answers(imported(tmp_path, network, config), [[3], [4]]) == [[3], [7]]


def test_the_start_control_is_on_once(tmp_path):
    """Where a state does not start at zero, START is 1 in a session's first step and 0 in all others."""
    artifact = imported(tmp_path, accumulator(), ACCUMULATOR)
    net = GraphNet(artifact.graph, artifact.signature, "cpu", 10)
    _, carries = net.advance(np.array([[9.0]]), np.array([1]), net.fresh[None].copy())
    carries[:, : net.state_size] = net.fresh  # as a reset does
    first, carries = net.advance(np.array([[1.0]]), np.array([1]), carries)
    second, _ = net.advance(np.array([[1.0]]), np.array([1]), carries)
    assert (first[0, 0], second[0, 0]) == (1, 2)


def test_an_initial_state_of_zeros(tmp_path):
    artifact = imported(tmp_path, initial_accumulator(), initial_config("zero_data: true"))
    assert answers(artifact, [[1, 2], [1, 2]]) == [[1, 2], [2, 4]]


def test_an_initial_state_from_a_file(tmp_path):
    (tmp_path / "initial_state").mkdir()
    np.array([10, 20], np.float32).tofile(tmp_path / "initial_state" / "first.bin")
    artifact = imported(tmp_path, initial_accumulator(), initial_config('data_file: "first.bin"'))
    assert answers(artifact, [[1, 2], [1, 2]]) == [[11, 22], [12, 24]]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (initial_config('data_file: "first.bin"'), "state 'INPUT_STATE': "),
        (initial_config('data_file: "../first.bin"'), "needs a data_file in the folder initial_state"),
        ("name: [", "line 1: 'the end' is where a value is expected"),
        ("max_batch_size: 4 }", "line 1: '}' is where the name of a field is expected"),
        ('max_batch_size: "four"', "max_batch_size is 'four'"),
        ("input { dims: 1 }", "a name is missing"),
        ("input: 3", "input is not a message"),
        ("a {" * 40, "nested deeper than 32 messages"),
        ("name = 4", "line 1: '= 4' is not read"),
        (
            ACCUMULATOR.replace("SEQUENCE_READY", "SEQUENCE_CORRID"),
            "control input 'READY' is CONTROL_SEQUENCE_CORRID, which no network is given here",
        ),
        (
            ACCUMULATOR.replace("int32_false_true: [ 0, 1 ]", "int32_false_true: [ 0 ]", 1),
            "control input 'START' needs one pair of values",
        ),
    ],
)
def test_a_configuration_that_cannot_be_taken_over_is_refused_by_name(tmp_path, config, message):
    with pytest.raises(BadArtifact) as caught:
        imported(tmp_path, accumulator(), config)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'config.pbtxt'}: ")


def test_the_text_format_is_read_with_all_its_forms():
    text = """
    # a comment
    name: "it's " 'one "text"'; list [1, -2.5e3, .5] empty: []
    inner < deep { kind: KIND_CPU } >, inner { yes: true no: false }
    """
    assert parse_text(text) == {
        "name": ['it\'s one "text"'],
        "list": [1, -2500.0, 0.5],
        "empty": [],
        "inner": [{"deep": [{"kind": ["KIND_CPU"]}]}, {"yes": [True], "no": [False]}],
    }


def test_an_initial_state_of_another_size_is_refused(tmp_path):
    (tmp_path / "initial_state").mkdir()
    (tmp_path / "initial_state" / "first.bin").write_bytes(b"123")
    with pytest.raises(BadArtifact, match=r"does not have the 8 bytes of float32 \[2\]"):
        imported(tmp_path, initial_accumulator(), initial_config('data_file: "first.bin"'))
