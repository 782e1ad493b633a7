"""Small ONNX graphs, made with onnx.helper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 17
Declared = Mapping[str, tuple[str, Sequence[int | str] | None]]


def graph(
    inputs: Declared, outputs: Declared, nodes: Sequence[NodeProto], weights: Mapping[str, Any] | None = None
) -> GraphProto:
    """A graph of tensors declared as {name: (dtype, dims)}."""
    values = [
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dims)
            for name, (dtype, dims) in group.items()
        ]
        for group in (inputs, outputs)
    ]
    arrays = (weights or {}).items()
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays]
    return helper.make_graph(list(nodes), "graph", values[0], values[1], tensors)


def model(graph: GraphProto, **options: Any) -> ModelProto:
    """A model of a graph."""
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9, **options)


def content(graph: GraphProto) -> bytes:
    """The file of a graph."""
    return model(graph).SerializeToString()


def written(folder: Path, graph: GraphProto, name: str = "graph.onnx") -> Path:
    """A graph's file in a folder."""
    (folder / name).write_bytes(content(graph))
    return folder / name


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> NodeProto:
    """A node that is named by its first output."""
    return helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], **attributes)


def counter(dtype: str = "int64") -> GraphProto:
    """total.next = y = x + total."""
    nodes = [node("Add", ["x", "total"], ["y"]), node("Identity", ["y"], ["total.next"])]
    dims = (dtype, ["batch", 1])
    return graph({"x": dims, "total": dims}, {"y": dims, "total.next": dims}, nodes)


__all__ = ["TensorProto", "content", "counter", "graph", "model", "node", "written"]
