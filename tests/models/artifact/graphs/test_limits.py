"""Hostile graphs are refused by name before they run, or end at the limits of the process that runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.artifact.graphs.choices import Choices
from models.artifact.graphs.importer import import_graph
from models.artifact.graphs.limits import MAX_NODES, parse_graph
from models.artifact.graphs.sandbox import GIB, Limits
from models.errors import BadArtifact
from tests.helpers.onnx_files import content, graph, model, node, written
from tests.helpers.paths import ROOT

FLOATS = ("float32", ["batch", 4])
STATELESS = Choices(all_states=True)


def network(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.GraphProto:
    """From x [batch, 4] to y."""
    return graph({"x": FLOATS}, {"y": FLOATS}, nodes, weights)


def endless() -> onnx.GraphProto:
    body = graph(
        {"i": ("int64", []), "go": ("bool", []), "v": FLOATS},
        {"go_on": ("bool", []), "v_next": FLOATS},
        [node("Identity", ["go"], ["go_on"]), node("Identity", ["v"], ["v_next"])],
    )
    return network(node("Loop", ["", "yes", "x"], ["y"], body=body), yes=np.array(True))


def nested(depth: int) -> onnx.GraphProto:
    """An If in an If in an If."""
    nodes = [node("Identity", ["x"], ["inner"])]
    for _ in range(depth):
        branch = graph({}, {"inner": FLOATS}, nodes)
        other = graph({}, {"inner": FLOATS}, [node("Identity", ["x"], ["inner"])])
        nodes = [node("If", ["yes"], ["inner"], then_branch=branch, else_branch=other)]
    return network(*nodes, node("Identity", ["inner"], ["y"]), yes=np.array(True))


def with_weight(change) -> bytes:
    made = model(network(node("Add", ["x", "w"], ["y"]), w=np.ones(4, np.float32)))
    change(made.graph.initializer[0])
    return made.SerializeToString()


def in_another_file(tensor: TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def with_functions() -> bytes:
    made = model(network(node("Identity", ["x"], ["y"])))
    made.functions.append(
        helper.make_function("", "Mine", ["a"], ["b"], [node("Relu", ["a"], ["b"])], made.opset_import)
    )
    return made.SerializeToString()


def with_domain(domain: str) -> bytes:
    made = model(network(helper.make_node("Mine", ["x"], ["y"], name="y", domain=domain)))
    made.opset_import.append(helper.make_opsetid(domain, 1))
    return made.SerializeToString()


def sequence_output() -> bytes:
    made = model(network(node("Identity", ["x"], ["y"])))
    made.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    return made.SerializeToString()


REFUSED = {
    "loop": (lambda: content(endless()), "node 'y' is the operator Loop, which is not run here"),
    "normal": (lambda: content(network(node("RandomNormalLike", ["x"], ["y"]))), "RandomNormalLike"),
    "draw": (lambda: content(network(node("Multinomial", ["x"], ["y"]))), "the operator Multinomial"),
    "dropout": (lambda: content(network(node("Dropout", ["x"], ["y"]))), "the operator Dropout"),
    "optional": (lambda: content(network(node("Optional", ["x"], ["y"]))), "the operator Optional"),
    "sequence": (lambda: content(network(node("SequenceConstruct", ["x"], ["y"]))), "SequenceConstruct"),
    "sequence output": (sequence_output, "tensor 'y' is sequence_type, not a tensor"),
    "custom operator": (
        lambda: with_domain("com.evil"),
        "node 'y' is com.evil.Mine; only operators of the ONNX standard are run",
    ),
    "machine learning": (
        lambda: with_domain("ai.onnx.ml"),
        "node 'y' is ai.onnx.ml.Mine; only operators of the ONNX standard",
    ),
    "functions": (with_functions, "the graph has functions of its own, such as 'Mine'"),
    "other file": (lambda: with_weight(in_another_file), "weight 'w' lies in another file"),
    "huge weight": (lambda: with_weight(lambda w: w.dims.append(2**40)), "weight 'w' does not hold the"),
    "negative": (lambda: with_weight(lambda w: w.dims.append(-1)), "weight 'w' has a size below 0"),
    "text": (lambda: with_weight(lambda w: setattr(w, "data_type", 8)), "weight 'w' has the type STRING"),
    "depth": (lambda: content(nested(17)), "is nested deeper than 16 graphs"),
    "nodes": (
        lambda: content(network(*(node("Identity", ["x"], [f"y{i}"]) for i in range(MAX_NODES + 1)))),
        "the graph has more than 20000 nodes",
    ),
    "no graph": (lambda: b"PK\x03\x04 a zip", "the file is not an ONNX graph"),
    "empty": (lambda: b"", "the file is not an ONNX graph"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_a_hostile_graph_is_refused_by_name_before_it_runs(make, message):
    with pytest.raises(BadArtifact) as caught:
        parse_graph(make())
    assert message in str(caught.value)


def test_what_is_within_the_limits_is_read():
    assert len(parse_graph(content(nested(16))).graph.node) == 2


def imported(folder: Path, made: onnx.GraphProto, limits: Limits) -> str:
    """What the import says."""
    with pytest.raises(BadArtifact) as caught:
        import_graph(written(folder, made), "hostile", STATELESS, limits=limits)
    return str(caught.value)


@pytest.mark.parametrize(
    "bomb",
    [
        # 256 GiB from a number in the file, and from a number that an input gives.
        network(
            node("ConstantOfShape", ["size"], ["filled"]),
            node("ReduceMax", ["filled"], ["most"], keepdims=0),
            node("Add", ["x", "most"], ["y"]),
            size=np.array([2**36]),
        ),
        network(
            node("Shape", ["x"], ["shape"]),
            node("Mul", ["shape", "times"], ["size"]),
            node("ConstantOfShape", ["size"], ["filled"]),
            node("ReduceMax", ["filled"], ["most"], keepdims=0),
            node("Add", ["x", "most"], ["y"]),
            times=np.array([2**16, 2**16]),
        ),
    ],
    ids=["constant", "by the input"],
)
def test_a_memory_bomb_ends_at_the_limit_of_its_process(tmp_path, bomb):
    message = imported(tmp_path, bomb, Limits(memory_bytes=2 * GIB))
    assert "onnx" in message
    assert any(word in message for word in ("allocate", "bad_alloc", "memory", "bad allocation")), message


def test_a_graph_that_computes_for_ever_ends_at_the_limit_of_its_process(tmp_path):
    size = 3000  # 54 GFLOP a product, and none can be left out
    nodes = [node("Expand", ["first", "size"], ["m0"])]
    nodes += [node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(50)]
    nodes += [node("ReduceMax", ["m50"], ["most"], keepdims=0), node("Add", ["x", "most"], ["y"])]
    nodes = [node("ReduceMax", ["x"], ["first"], keepdims=0), *nodes]
    bomb = network(*nodes, size=np.array([size, size]))
    message = imported(tmp_path, bomb, Limits(cpu_seconds=1))
    assert "the graph was not proved within 1 seconds of computing" in message


def test_a_graph_that_takes_too_long_by_the_clock_is_given_up(tmp_path):
    message = imported(tmp_path, network(node("Identity", ["x"], ["y"])), Limits(wall_seconds=0.01))
    assert "the graph was not proved within 0.01 seconds" in message


def test_damaged_files_are_refused_by_name_or_bounded():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.mutated_graphs", "--count", "40", "--seed", "7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused by name" in done.stdout
    assert "40 graphs in" in done.stdout
