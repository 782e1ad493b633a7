"""The proof finds what would be wrong on the server, and names the tensor and the number."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.artifact.graph_artifact import GraphArtifact
from models.artifact.graphs.child import make_artifact
from models.artifact.graphs.choices import Choices, check_choices
from models.artifact.graphs.limits import parse_graph
from models.errors import BadArtifact
from tests.helpers.onnx_files import content, counter, graph, node

STATE = {"total": "total.next"}
ROW = ("float32", ["batch", 1])
STEPS = ("float32", ["batch", "time", 2])


def made(network: onnx.GraphProto, choices: Choices, sample: Path | None = None) -> GraphArtifact:
    file = content(network)
    check_choices(parse_graph(file), choices)
    return make_artifact(file, "proved", choices, sample)


def refused(network: onnx.GraphProto, choices: Choices, sample: Path | None = None) -> str:
    with pytest.raises(BadArtifact) as caught:
        made(network, choices, sample)
    return str(caught.value)


def with_state(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.GraphProto:
    """From x [batch, 1] and total [batch, 1] to y and total.next."""
    return graph({"x": ROW, "total": ROW}, {"y": ROW, "total.next": ROW}, nodes, weights)


def stream(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.GraphProto:
    """From x [batch, time, 2] and total [batch, 2] to y and total.next."""
    total = ("float32", ["batch", 2])
    return graph({"x": STEPS, "total": total}, {"y": STEPS, "total.next": total}, nodes, weights)


ADD = (node("Add", ["x", "total"], ["y"]), node("Identity", ["y"], ["total.next"]))


def test_a_counter_is_proved_exactly():
    artifact = made(counter(), Choices(states=STATE))
    assert (artifact.probed["batch_alone"], artifact.probed["chunked_whole"]) == (0, None)
    assert artifact.inputs[0].dtype == artifact.signature.states[0].dtype == "int64"
    assert artifact.graph == content(counter())  # not rewired: the author's file, byte for byte


def test_rows_that_see_each_other_are_refused_with_the_tensor_and_the_number():
    centred = (
        node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        node("Sub", ["x", "mean"], ["apart"]),
        node("Add", ["apart", "total"], ["y"]),
        node("Identity", ["y"], ["total.next"]),
    )
    message = refused(with_state(*centred), Choices(states=STATE))
    assert re.fullmatch(
        r"output 'y' of 2 sessions together differs from a session alone by \d.* \(of its largest.*", message
    )


def test_a_state_that_sees_the_batch_is_refused_although_the_answers_do_not_show_it():
    counted = (
        node("Identity", ["x"], ["y"]),
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["sessions"]),
        node("Cast", ["sessions"], ["count"], to=onnx.TensorProto.FLOAT),
        node("Add", ["total", "count"], ["total.next"]),
    )
    message = refused(with_state(*counted, zero=np.array(0)), Choices(states=STATE))
    assert message.startswith("state 'total' of 2 sessions together differs from a session alone by 1 ")


def test_chunks_that_matter_are_refused():
    # The state is the mean of the call's steps: another one for other chunks.
    nodes = (
        node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        node("Add", ["total", "mean"], ["total.next"]),
        node("Unsqueeze", ["total", "one"], ["before"]),
        node("Add", ["x", "before"], ["y"]),
    )
    message = refused(stream(*nodes, one=np.array([1])), Choices(states=STATE))
    assert message.startswith("output 'y' of 1 + 2 + 5 steps differs from the same 8 steps in one call by ")


def test_a_state_that_counts_calls_is_refused_although_the_answers_do_not_show_it():
    nodes = (node("Identity", ["x"], ["y"]), node("Add", ["total", "one"], ["total.next"]))
    message = refused(stream(*nodes, one=np.ones(2, np.float32)), Choices(states=STATE))
    assert message.startswith(
        "state 'total' of 1 + 2 + 5 steps differs from the same 8 steps in one call by "
    )


def test_states_that_are_taken_for_one_another_are_refused():
    dims = ("float32", ["batch", 4])
    lstm = node("LSTM", ["by_time", "w", "r", "", "", "h0", "c0"], ["all", "h.last", "c.last"], hidden_size=4)
    nodes = [
        node("Transpose", ["x"], ["by_time"], perm=[1, 0, 2]),
        node("Unsqueeze", ["h", "zero"], ["h0"]),
        node("Unsqueeze", ["c", "zero"], ["c0"]),
        lstm,
        node("Squeeze", ["h.last", "zero"], ["h.next"]),
        node("Squeeze", ["c.last", "zero"], ["c.next"]),
        node("Squeeze", ["all", "one"], ["rows"]),
        node("Transpose", ["rows"], ["y"], perm=[1, 0, 2]),
    ]
    random = np.random.default_rng(2)
    network = graph(
        {"x": STEPS, "h": dims, "c": dims},
        {"y": ("float32", ["batch", "time", 4]), "h.next": dims, "c.next": dims},
        nodes,
        {
            "w": random.standard_normal((1, 16, 2)).astype(np.float32),
            "r": random.standard_normal((1, 16, 4)).astype(np.float32),
            "zero": np.array([0]),
            "one": np.array([1]),
        },
    )
    assert made(network, Choices(states={"h": "h.next", "c": "c.next"})).probed["chunked_whole"] <= 1e-6
    message = refused(network, Choices(states={"h": "c.next", "c": "h.next"}))
    assert "of 1 + 2 + 5 steps differs from the same 8 steps in one call" in message


def test_numbers_that_are_not_finite_are_refused():
    nodes = (node("Div", ["x", "x"], ["y"]), node("Identity", ["total"], ["total.next"]))
    assert refused(with_state(*nodes), Choices(states=STATE)) == "output 'y' is not finite after zeros"


def test_an_output_that_does_not_follow_the_batch_is_refused():
    nodes = (node("ReduceSum", ["x"], ["y"], keepdims=1), node("Identity", ["total"], ["total.next"]))
    message = refused(with_state(*nodes), Choices(states=STATE))
    assert message.startswith("output 'y' has no axis that follows the batch: [1, 1] with 3 sessions, [1, 1]")


def test_a_state_that_grows_is_refused():
    nodes = (
        node("Concat", ["seen", "x"], ["seen.next"], axis=1),
        node("ReduceSum", ["seen.next", "one"], ["sum"], keepdims=1),
        node("Add", ["x", "sum"], ["y"]),
    )
    network = graph(
        {"x": STEPS, "seen": ("float32", ["batch", 3, 2])},
        {"y": STEPS, "seen.next": ("float32", ["batch", "any", 2])},
        nodes,
        {"one": np.array([1])},
    )
    message = refused(network, Choices(states={"seen": "seen.next"}))
    assert message == (
        "state 'seen' is [3, 3, 2] before a call of 5 steps and [3, 8, 2] after it: "
        "a state must keep its size"
    )


def test_a_graph_without_a_state_whose_answers_depend_on_the_chunks_is_refused():
    sums = node("CumSum", ["x", "axis"], ["y"])
    network = graph({"x": STEPS}, {"y": STEPS}, (sums,), {"axis": np.array(1)})
    message = refused(network, Choices(all_states=True))
    assert message.startswith("output 'y' of 1 + 2 + 5 steps differs from the same 8 steps in one call by")


def test_an_input_whose_size_is_free_is_named_where_the_graph_does_not_run():
    shape = ("float32", ["batch", "size"])
    product = node("MatMul", ["x", "w"], ["y"])
    network = graph({"x": shape}, {"y": shape}, (product,), {"w": np.ones((9, 2), np.float32)})
    assert refused(network, Choices()).endswith("if the size of a step is not free, say it: --shape x=N")
    made = make_artifact(content(network), "sized", Choices(shapes={"x": (9,)}))
    assert made.inputs[0].shape == (9,)


def test_a_convolution_without_its_past_is_told_how_much_it_needs():
    nodes = (node("Conv", ["x", "w"], ["y"]),)
    shape = ("float32", ["batch", 2, "time"])
    weights = {"w": np.ones((2, 2, 4), np.float32)}
    network = graph({"x": shape}, {"y": shape}, nodes, weights)
    assert refused(network, Choices()).endswith("7, not one for each: --context x=3")
    artifact = made(network, Choices(context={"x": 3}))
    assert (artifact.inputs[0].context, artifact.signature.steps.axis) == (3, 2)


def test_an_answer_whose_time_lies_elsewhere_is_turned():
    """Channels first goes in, time first comes out."""
    nodes = (node("Transpose", ["x"], ["y"], perm=[2, 0, 1]),)
    network = graph({"x": ("float32", ["batch", 2, "time"])}, {"y": ("float32", ["time", "batch", 2])}, nodes)
    artifact = made(network, Choices())
    assert (artifact.signature.steps.axis, artifact.outputs[0].batch_axis) == (2, 0)
    assert artifact.outputs[0].shape == (2,)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones(4), "y": np.array([1.0, 2, 3, 5])}, "output 'y' differs from the sample by 0.2 "),
        ({"x": np.ones((4, 2)), "y": np.ones(4)}, "the sample's 'x' has the shape [4, 2], not [steps, 1]"),
        ({"x": np.ones(4), "y": np.ones((4, 3))}, "the sample's 'y' has the shape [4, 3], not [steps, 1]"),
        ({"x": np.ones(4)}, "has no array for an output: name one 'y'"),
        ({"y": np.ones(4)}, "has no array for the input 'x'"),
        ({"x": np.ones(4), "y": np.ones(5)}, "'y' has 5 rows for 4 steps"),
        ({"x": np.ones(0), "y": np.ones(0)}, "the inputs must have the same number of steps, at least 1"),
    ],
)
def test_a_sample_that_differs_or_does_not_fit_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "sample.npz", **arrays)
    assert message in refused(with_state(*ADD), Choices(states=STATE), tmp_path / "sample.npz")


@pytest.mark.parametrize("names", [("x", "y"), ("inputs", "outputs")])
def test_a_sample_that_agrees_is_measured(tmp_path, names):
    np.savez(tmp_path / "sample.npz", **{names[0]: np.ones(4), names[1]: np.array([3.0, 4])})
    artifact = made(with_state(*ADD), Choices(states=STATE), tmp_path / "sample.npz")
    assert artifact.probed["verified"] == 0


def test_a_file_that_is_no_sample_is_refused(tmp_path):
    (tmp_path / "sample.npz").write_bytes(b"not arrays")
    message = refused(with_state(*ADD), Choices(states=STATE), tmp_path / "sample.npz")
    assert "cannot be read as a sample" in message


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            Choices(),
            "the graph may have states, by names and sizes: add --state total=total.next, or --no-",
        ),
        (Choices(states={"z": "y"}), "the graph has no input 'z'; its inputs are total, x"),
        (Choices(states={"total": "z"}), "the graph has no output 'z'; its outputs are total.next, y"),
        (Choices(states=STATE, names={"z": "a"}), "the graph has no input or output 'z' to give a name to"),
        (Choices(states=STATE, shapes={"z": (1,)}), "the graph has no input 'z'; its inputs are total, x"),
        (Choices(states=STATE, batch_axes={"x": 2}), "input 'x' has 2 axes: its batch cannot be axis 2"),
        (Choices(states=STATE, shapes={"x": (3,)}), "input 'x' is float32 [batch, 1]: give the shape of"),
        (
            Choices(states=STATE, initials={"total": np.ones(2)}),
            "state 'total' has the shape [1], its initial value [2]",
        ),
        (Choices(states=STATE, ignore=("y", "total.next")), "no output is left for predictions"),
        (Choices(states=STATE, constants={"x": np.array(1)}), "no input is left for observations"),
        (Choices(states=STATE, ignore=("y",)), ""),
    ],
)
def test_choices_that_do_not_fit_the_graph_are_refused(choices, message):
    if message:
        assert refused(with_state(*ADD), choices).startswith(message)
    else:  # the state is the answer, where there is no other
        assert made(with_state(*ADD), choices).outputs[0].tensor == "total.next"


def test_a_hidden_state_must_be_chosen():
    network = graph(
        {"x": ("float32", ["time", "batch", 2])},
        {"y": ("float32", ["time", 1, "batch", 3])},
        [node("GRU", ["x", "w", "r"], ["y", ""], hidden_size=3)],
        {"w": np.ones((1, 9, 2), np.float32), "r": np.ones((1, 9, 3), np.float32)},
    )
    assert refused(network, Choices()).startswith(
        "the state of node 'y' stays inside the graph: add --expose"
    )
    artifact = made(network, Choices(expose=True))
    onnx.checker.check_model(artifact.graph)
    assert [(state.tensor, state.shape) for state in artifact.signature.states] == [("y.h", (1, 3))]


def test_a_batch_of_one_is_freed_only_when_asked_for():
    fixed = ("float32", [1, 1])
    network = graph({"x": fixed, "total": fixed}, {"y": fixed, "total.next": fixed}, ADD)
    assert refused(network, Choices(states=STATE)) == (
        "input 'x' has the fixed shape [1, 1]: --free-batch tries to free it"
    )
    assert made(network, Choices(states=STATE, free_batch=True)).probed["batch_alone"] == 0


def test_what_has_a_time_is_not_proposed_as_a_state():
    """An answer of the shape of an observation: no state, because it has a row for every step."""
    rows = ("float32", ["batch", "time", 2])
    nodes = (node("Add", ["x", "other"], ["y"]), node("Sub", ["x", "other"], ["z"]))
    network = graph({"x": rows, "other": rows}, {"y": rows, "z": rows}, nodes)
    assert len(made(network, Choices()).outputs) == 2


def test_tokens_are_bounded_by_the_embedding_that_they_choose_from():
    nodes = (node("Gather", ["table", "token"], ["y"]),)
    network = graph(
        {"token": ("int64", ["batch", "time"])},
        {"y": ("float32", ["batch", "time", 3])},
        nodes,
        {"table": np.ones((7, 3), np.float32)},
    )
    assert made(network, Choices()).inputs[0].range == (0, 6)
