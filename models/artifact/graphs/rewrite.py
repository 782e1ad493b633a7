"""Rewires graphs: states that their authors never returned become inputs and outputs, a fixed batch is freed.

A recurrent node that is given no state starts each call from its initial values, usually zeros:

    X -> LSTM(initial_h, initial_c) -> Y, Y_h, Y_c

`expose_states` feeds `initial_h` and `initial_c` from new inputs and makes `Y_h` and `Y_c` outputs, so that
the next call goes on where this one ended. What the node was given before is how a fresh session starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.artifact.graphs.limits import fed_inputs, walk
from models.errors import BadArtifact

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# By operator: the node's input and output, and the suffix of the exposed names.
RECURRENT: dict[str, tuple[tuple[int, int, str], ...]] = {
    "LSTM": ((5, 1, "h"), (6, 2, "c")),
    "GRU": ((5, 1, "h"),),
    "RNN": ((5, 1, "h"),),
}
# Operators whose result depends on the shape of what they are given, not on its numbers.
SHAPE_ONLY = frozenset(("Shape", "Size"))


@dataclass(frozen=True)
class ExposedState:
    """A state that was inside the graph.

    Attributes
    ----------
    tensor, next_tensor
        The new input and output, [1, batch, hidden].
    source
        The tensor from which the node started before, or None: zeros.
    """

    tensor: str
    next_tensor: str
    source: str | None


def hidden_states(model: ModelProto) -> tuple[NodeProto, ...]:
    """Recurrent nodes of the graph that start each call anew.

    Raises
    ------
    BadArtifact
        If a recurrent node reads the future.
    """
    graph = model.graph
    for node, _ in walk(graph):
        direction = _attribute(node, "direction", b"forward") if node.op_type in RECURRENT else b"forward"
        if direction != b"forward":
            raise BadArtifact(
                f"node {_title(node)!r} is {direction.decode()[:40]}: its first answer needs the whole "
                "sequence, so it cannot serve a stream"
            )
    return tuple(
        node for node in graph.node if node.op_type in RECURRENT and not _is_fed(graph, node.input[5:7])
    )


def expose_states(model: ModelProto) -> tuple[ExposedState, ...]:
    """Turn the hidden states of the graph into inputs and outputs, in place.

    Raises
    ------
    BadArtifact
        If a recurrent node lies in a branch, has another layout, or its size cannot be read.
    """
    nodes = hidden_states(model)
    if not nodes:
        inner = [node for node, depth in walk(model.graph) if depth and node.op_type in RECURRENT]
        if inner:
            raise BadArtifact(f"node {_title(inner[0])!r} lies in a branch: its state cannot be exposed")
        raise BadArtifact("the graph has no LSTM, GRU or RNN node whose state could be exposed")
    taken = _names(model.graph)
    return tuple(state for node in nodes for state in _expose(model.graph, node, taken))


def free_axes(model: ModelProto, axes: Mapping[str, int]) -> None:
    """Declare these axes of inputs as of any size, in place, and forget declared shapes that depend on them.

    Parameters
    ----------
    axes
        Axes by tensor.
    """
    graph = model.graph
    for value in graph.input:
        if value.name in axes:
            value.type.tensor_type.shape.dim[axes[value.name]].dim_param = "batch"
    forget_shapes(model)


def loosen_reshapes(model: ModelProto) -> int:
    """Let constant shapes that begin with the batch of 1 hold any batch, in place; how many there were.

    [1, 128] becomes [-1, 128], and [1, -1, 8] becomes [0, -1, 8], which takes the size from what is reshaped.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    taken = _names(graph)
    count = 0
    for node in graph.node:
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        sizes = [] if shape is None else numpy_helper.to_array(shape).reshape(-1).tolist()
        if len(sizes) > 1 and sizes[0] == 1 and _attribute(node, "allowzero", 0) == 0:
            name = _unused(f"{node.input[1]}.any_batch", taken)
            first = 0 if -1 in sizes else -1
            shape = helper.make_tensor(name, TensorProto.INT64, [len(sizes)], [first, *sizes[1:]])
            graph.initializer.append(shape)
            node.input[1] = name
            count += 1
    return count


def forget_shapes(model: ModelProto) -> None:
    """Drop what the graph says of the sizes of outputs and of tensors inside, in place.

    The runtime finds them out; those of exporters are often guesses.
    """
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()


def move_axis(model: ModelProto, tensor: str, source: int, target: int, rank: int) -> str:
    """Add an output that is this one with an axis moved, in place; the new output's name.

    Parameters
    ----------
    tensor
        An output of the graph.
    source, target
        Where the axis is, and where it shall be.
    rank
        How many axes the tensor has.
    """
    from onnx import helper

    graph = model.graph
    order = [axis for axis in range(rank) if axis != source]
    order.insert(target, source)
    name = _unused(f"{tensor}.by_time", _names(graph))
    graph.node.append(helper.make_node("Transpose", [tensor], [name], name=name, perm=order))
    dtype = next(value.type.tensor_type.elem_type for value in graph.output if value.name == tensor)
    graph.output.append(helper.make_tensor_value_info(name, dtype, [None] * rank))
    return name


def _expose(graph: GraphProto, node: NodeProto, taken: set[str]) -> Iterable[ExposedState]:
    from onnx import helper

    if _attribute(node, "layout", 0) != 0:
        raise BadArtifact(f"node {_title(node)!r} has another layout than time first, which is not read here")
    size = _hidden_size(graph, node)
    dtype = _dtype(graph, node)
    for into, out, suffix in RECURRENT[node.op_type]:
        name = _unused(f"{_title(node)}.{suffix}", taken)
        source = node.input[into] if len(node.input) > into else ""
        node.input.extend([""] * (into + 1 - len(node.input)))
        node.output.extend([""] * (out + 1 - len(node.output)))
        node.input[into] = name
        node.output[out] = node.output[out] or _unused(f"{name}.next", taken)
        graph.input.append(helper.make_tensor_value_info(name, dtype, [1, "batch", size]))
        if node.output[out] not in {value.name for value in graph.output}:
            graph.output.append(helper.make_tensor_value_info(node.output[out], dtype, [1, "batch", size]))
        yield ExposedState(name, node.output[out], source or None)


def _is_fed(graph: GraphProto, tensors: Iterable[str]) -> bool:
    """Whether any of these tensors depends on the numbers of an input, not only on its shape."""
    makers = {output: node for node in graph.node for output in node.output}
    inputs = {value.name for value in fed_inputs(graph)}
    waiting, seen = [name for name in tensors if name], set()
    while waiting:
        name = waiting.pop()
        if name in inputs:
            return True
        if name in seen or name not in makers:
            continue
        seen.add(name)
        if makers[name].op_type not in SHAPE_ONLY:
            waiting += [source for source in makers[name].input if source]
    return False


def _hidden_size(graph: GraphProto, node: NodeProto) -> int:
    size = _attribute(node, "hidden_size", None)
    for tensor in graph.initializer:
        if size is None and tensor.name == node.input[2]:
            size = tensor.dims[-1]
    if size is None:
        raise BadArtifact(f"node {_title(node)!r} does not say its hidden_size")
    return int(size)


def _dtype(graph: GraphProto, node: NodeProto) -> int:
    from onnx import TensorProto

    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return int(types.get(node.input[1], TensorProto.FLOAT))


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _title(node: NodeProto) -> str:
    return (node.name or node.output[0] or node.op_type).strip("/")[:80]


def _names(graph: GraphProto) -> set[str]:
    return {
        *(value.name for value in (*graph.input, *graph.output)),
        *(tensor.name for tensor in graph.initializer),
        *(name for node, _ in walk(graph) for name in (*node.input, *node.output)),
    }


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"{name}_"
    taken.add(name)
    return name
