"""Damages ONNX graphs in many ways and imports them: each is refused by name, or bounded by the limits.

    python -m benchmarks.mutated_graphs --count 1000 --seed 1

Each import runs in a process of its own, with the limits of `carryover import`; it is forked from this one,
which has loaded the libraries. Half of the damage is to the bytes of a file, half to what it says.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from models.artifact.graphs.child import make_artifact
from models.artifact.graphs.choices import Choices, check_choices
from models.artifact.graphs.limits import OPERATORS, parse_graph
from models.artifact.graphs.sandbox import GIB, Limits
from models.errors import BadArtifact

LIMITS = Limits(memory_bytes=3 * GIB, cpu_seconds=10)
WALL_SECONDS = 20
IMPORTED, REFUSED, OTHER = 0, 3, 4
Random = np.random.Generator


def main(arguments: list[str]) -> int:
    """Damage and import; the exit status is 1 if an import ended in a way that has no name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    ends = Counter(_import(content) for content in _damaged(options.count, options.seed))
    for end, count in ends.most_common():
        print(f"{count:6} {end}")
    print(
        f"{options.count} graphs in {time.monotonic() - started:.0f} s, onnxruntime {onnxruntime.__version__}"
    )
    return int(ends["an error without a name"] > 0)


def _damaged(count: int, seed: int) -> Iterator[bytes]:
    random = np.random.default_rng(seed)
    whole = _network().SerializeToString()
    for number in range(count):
        yield _with_other_bytes(random, whole) if number % 2 else _with_other_words(random, whole)


def _import(content: bytes) -> str:
    """How the import of a file ended."""
    child = os.fork()
    if child == 0:
        os._exit(_work(content))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {
            signal.SIGALRM: f"stopped after {WALL_SECONDS} seconds",
            signal.SIGXCPU: f"stopped after {LIMITS.cpu_seconds} seconds of computing",
        }.get(signal.Signals(number), f"the runtime did not survive it: {signal.Signals(number).name}")
    return {IMPORTED: "imported", REFUSED: "refused by name"}.get(
        os.WEXITSTATUS(status), "an error without a name"
    )


def _work(content: bytes) -> int:
    signal.alarm(WALL_SECONDS)
    LIMITS.apply()
    choices = Choices(states={"h": "h_next", "seen": "seen_next"}, all_states=True)
    try:
        check_choices(parse_graph(content), choices)
        make_artifact(content, "damaged", choices)
    except BadArtifact:
        return REFUSED
    except MemoryError:
        return REFUSED
    except BaseException:  # noqa: BLE001 - what an import may not end in
        traceback.print_exc()
        return OTHER
    return IMPORTED


def _network() -> ModelProto:
    """A GRU over tokens, a branch, a scan and the last token: something of all that may be damaged."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)

    def value(name: str, kind: int, dims: list[Any] | None) -> Any:
        return helper.make_tensor_value_info(name, kind, dims)

    floats, whole = TensorProto.FLOAT, TensorProto.INT64
    scaled = helper.make_graph(
        [helper.make_node("Mul", ["hidden", "two"], ["scaled"])],
        "scaled",
        [],
        [value("scaled", floats, None)],
    )
    kept = helper.make_graph(
        [helper.make_node("Identity", ["hidden"], ["kept"])], "kept", [], [value("kept", floats, None)]
    )
    body = helper.make_graph(
        [
            helper.make_node("Add", ["sum", "row"], ["each"]),
            helper.make_node("Identity", ["sum"], ["sum_next"]),
        ],
        "body",
        [value("sum", floats, None), value("row", floats, None)],
        [value("sum_next", floats, None), value("each", floats, None)],
    )
    nodes = [
        helper.make_node("Gather", ["table", "token"], ["x"]),
        helper.make_node("GRU", ["x", "w", "r", "b", "", "h"], ["all", "h_next"], hidden_size=5),
        helper.make_node("Squeeze", ["all", "one"], ["hidden"]),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=scaled, else_branch=kept),
        helper.make_node("Scan", ["two", "chosen"], ["total", "scanned"], body=body, num_scan_inputs=1),
        helper.make_node("MatMul", ["scanned", "out"], ["y"]),
        helper.make_node("Gather", ["token", "last"], ["seen_next"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [
            value("token", whole, ["time", "batch"]),
            value("h", floats, [1, "batch", 5]),
            value("seen", whole, ["batch"]),
        ],
        [
            value("y", floats, ["time", "batch", 3]),
            value("h_next", floats, [1, "batch", 5]),
            value("seen_next", whole, ["batch"]),
        ],
        [
            *(weight("table", 9, 4), weight("w", 1, 15, 4), weight("r", 1, 15, 5), weight("b", 1, 30)),
            *(weight("out", 5, 3), numpy_helper.from_array(np.array(2, np.float32), "two")),
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.array(-1), "last"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return model


def _with_other_bytes(random: Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(int(random.integers(1, 6))):
        at = int(random.integers(0, len(damaged)))
        length = int(random.integers(1, 40))
        kind = random.integers(0, 5)
        if kind == 0:
            damaged[at] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            del damaged[at : at + length]
        elif kind == 2:
            damaged[at:at] = random.bytes(length)
        elif kind == 3:
            damaged[at:at] = damaged[at : at + length]
        else:
            damaged[at : at + length] = b"\xff" * min(length, 9)
        if not damaged:
            break
    return bytes(damaged)


def _with_other_words(random: Random, content: bytes) -> bytes:
    model = ModelProto()
    model.ParseFromString(content)
    for _ in range(int(random.integers(1, 4))):
        damage = DAMAGE[int(random.integers(0, len(DAMAGE)))]
        damage(random, model)
    return bytes(model.SerializeToString())


def _other_operator(random: Random, model: ModelProto) -> None:
    _node(random, model).op_type = str(random.choice(sorted(OPERATORS)))


def _other_input(random: Random, model: ModelProto) -> None:
    node = _node(random, model)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    if node.input:
        node.input[int(random.integers(0, len(node.input)))] = str(random.choice(names))


def _other_output(random: Random, model: ModelProto) -> None:
    _node(random, model).output[0] = str(random.choice([value.name for value in model.graph.output]))


def _other_size(random: Random, model: ModelProto) -> None:
    graph = model.graph
    shapes = [value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)]
    dim = shapes[int(random.integers(0, len(shapes)))]
    dim[int(random.integers(0, len(dim)))].dim_value = int(random.choice([-1, 0, 1, 7, 2**31, 2**62]))


def _other_weight(random: Random, model: ModelProto) -> None:
    tensor = model.graph.initializer[int(random.integers(0, len(model.graph.initializer)))]
    tensor.dims.append(int(random.choice([-1, 0, 1, 2**40])))


def _other_type(random: Random, model: ModelProto) -> None:
    value = model.graph.input[int(random.integers(0, len(model.graph.input)))]
    value.type.tensor_type.elem_type = int(random.integers(0, 24))


def _other_attribute(random: Random, model: ModelProto) -> None:
    node = _node(random, model)
    for attribute in node.attribute:
        attribute.i = int(random.choice([-1, 0, 3, 2**31, 2**62]))


def _huge_fill(random: Random, model: ModelProto) -> None:
    sizes = numpy_helper.from_array(np.array([2 ** int(random.integers(10, 50))]), "huge")
    model.graph.initializer.append(sizes)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge"], ["filled"]))
    model.graph.node.append(helper.make_node("Identity", ["filled"], ["unused"]))
    _node(random, model).input.append("filled")


def _node_twice(random: Random, model: ModelProto) -> None:
    model.graph.node.append(_node(random, model))


def _node_less(random: Random, model: ModelProto) -> None:
    if len(model.graph.node) > 1:
        del model.graph.node[int(random.integers(0, len(model.graph.node)))]


def _node(random: Random, model: ModelProto) -> Any:
    return model.graph.node[int(random.integers(0, len(model.graph.node)))]


DAMAGE: tuple[Callable[[Random, ModelProto], None], ...] = (
    _other_operator,
    _other_input,
    _other_output,
    _other_size,
    _other_weight,
    _other_type,
    _other_attribute,
    _huge_fill,
    _node_twice,
    _node_less,
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
