"""Reads an ONNX graph and refuses what a server must not run, before any of it runs.

What a graph computes is bounded by what it holds: there are no loops, no random numbers, no sequences, no
files beside it and no operators of other libraries. `If` and `Scan` stay: the second runs as often as its
input is long.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

from models.artifact.graph_artifact import MAX_GRAPH_BYTES
from models.errors import BadArtifact
from models.installation import install_command
from models.nets.signature import Signature

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

MAX_NODES = 20_000
MAX_NESTING = 16
STANDARD_DOMAINS = ("", "ai.onnx")
TENSOR_TYPES = frozenset(
    (
        *("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "BOOL"),
        *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    )
)
STANDARD_OPERATORS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike CausalConvWithState
    Ceil Celu CenterCropPad Clip Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose
    Cos Cosh CumProd CumSum DFT DepthToSpace DequantizeLinear Det Div DynamicQuantizeLinear Einsum Elu
    Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
    HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN
    LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax
    LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization
    MelWeightMatrix Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul
    QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink
    Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum
    SwiGLU Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample
    Where Xor
"""
OPERATORS = frozenset(STANDARD_OPERATORS.split())


def parse_graph(content: bytes) -> ModelProto:
    """Read a graph within the limits.

    Raises
    ------
    BadArtifact
        The message names the node, tensor or operator.
    """
    if len(content) > MAX_GRAPH_BYTES:
        raise BadArtifact(f"the graph has {len(content)} bytes; at most {MAX_GRAPH_BYTES} are allowed")
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto
    except ImportError as error:
        raise BadArtifact(f"ONNX graphs need: {install_command('onnx')}") from error
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RecursionError) as error:
        raise BadArtifact(f"the file is not an ONNX graph: {error}") from error
    if not model.graph.node and not model.graph.output:
        raise BadArtifact("the file is not an ONNX graph: it has no nodes and no outputs")
    _check_model(model)
    return model


def check_graph(content: bytes, signature: Signature) -> None:
    """Refuse a graph beyond the limits, or whose tensors are not those of the signature.

    Raises
    ------
    BadArtifact
    """
    graph = parse_graph(content).graph
    needed = {value.name: value for value in fed_inputs(graph)}
    _check_names("input", set(signature.fed_tensors), set(needed))
    produced = {value.name: value for value in graph.output}
    for name in sorted(set(signature.fetched_tensors) - set(produced)):
        raise BadArtifact(f"the graph has no output {name[:80]!r}")
    types = [(port.tensor, str(port.dtype), needed) for port in signature.inputs]
    types += [(control.tensor, control.dtype, needed) for control in signature.controls]
    types += [(port.tensor, port.dtype, produced) for port in signature.outputs]
    types += [(constant.tensor, str(constant.value.dtype), needed) for constant in signature.constants]
    types += [(state.tensor, state.dtype, needed) for state in signature.states]
    types += [(state.next_tensor, state.dtype, produced) for state in signature.states]
    for name, dtype, values in types:
        if dtype_of(values[name]) != dtype:
            raise BadArtifact(f"tensor {name[:80]!r} is {dtype_of(values[name])} in the graph, not {dtype}")


def fed_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Inputs that a caller must give: graphs of old versions list their weights as inputs, too."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def dtype_of(value: ValueInfoProto) -> str:
    """The type of a tensor by its numpy name."""
    from onnx import helper

    return str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def walk(graph: GraphProto) -> Iterator[tuple[Any, int]]:
    """Every node, those of subgraphs too, with its depth: 0 in the graph itself."""
    waiting = [(graph, 0)]
    while waiting:
        current, depth = waiting.pop()
        for node in current.node:
            yield node, depth
            for attribute in node.attribute:
                waiting += [(inner, depth + 1) for inner in (*_graph_of(attribute), *attribute.graphs)]


def _graph_of(attribute: AttributeProto) -> tuple[GraphProto, ...]:
    return (attribute.g,) if attribute.HasField("g") else ()


def _check_model(model: ModelProto) -> None:
    if model.functions:
        raise BadArtifact(
            f"the graph has functions of its own, such as {model.functions[0].name[:80]!r}: "
            "inline them with onnx.inliner.inline_local_functions"
        )
    if model.training_info:
        raise BadArtifact("the graph has training information; export it for inference")
    for count, (node, depth) in enumerate(walk(model.graph), start=1):
        if count > MAX_NODES:
            raise BadArtifact(f"the graph has more than {MAX_NODES} nodes")
        if depth > MAX_NESTING:
            raise BadArtifact(f"node {node.name[:80]!r} is nested deeper than {MAX_NESTING} graphs")
        _check_node(node)
    for graph in _graphs(model.graph):
        _check_tensors(graph)
    for value in (*fed_inputs(model.graph), *model.graph.output):
        _check_value(value)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node, _ in walk(graph):
        for attribute in node.attribute:
            yield from (*_graph_of(attribute), *attribute.graphs)


def _check_node(node: Any) -> None:
    where = f"node {node.name[:80]!r}" if node.name else f"the node that makes {list(node.output)!s:.80}"
    if node.domain not in STANDARD_DOMAINS:
        raise BadArtifact(
            f"{where} is {node.domain[:80]}.{node.op_type[:80]}; only operators of the ONNX standard are run"
        )
    if node.op_type not in OPERATORS:
        hint = ": export a single step instead" if node.op_type == "Loop" else ""
        raise BadArtifact(f"{where} is the operator {node.op_type[:80]}, which is not run here{hint}")
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise BadArtifact(f"{where} has a sparse tensor, which is not read here")
        if attribute.HasField("t"):
            _check_tensor(attribute.t, where)
        for tensor in attribute.tensors:
            _check_tensor(tensor, where)


def _check_tensors(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _check_tensor(tensor, f"weight {tensor.name[:80]!r}")
    if graph.sparse_initializer:
        raise BadArtifact("the graph has a sparse weight, which is not read here")


def _check_tensor(tensor: TensorProto, where: str) -> None:
    from onnx import TensorProto, helper

    if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
        raise BadArtifact(f"{where} lies in another file; save the graph as a single file")
    name = _type_name(tensor.data_type)
    if name not in TENSOR_TYPES:
        raise BadArtifact(f"{where} has the type {name}, which is not read here")
    if min(tensor.dims, default=1) < 0:
        raise BadArtifact(f"{where} has a size below 0")
    size = prod(tensor.dims)
    if tensor.HasField("raw_data"):
        fits = len(tensor.raw_data) == size * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    else:
        fits = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))) == size
    if not fits:
        raise BadArtifact(f"{where} does not hold the {size} numbers of its shape {list(tensor.dims)!s:.80}")


def _check_value(value: ValueInfoProto) -> None:
    where = f"tensor {value.name[:80]!r}"
    if not value.type.HasField("tensor_type"):
        raise BadArtifact(f"{where} is {value.type.WhichOneof('value')}, not a tensor")
    name = _type_name(value.type.tensor_type.elem_type)
    if name not in TENSOR_TYPES:
        raise BadArtifact(f"{where} has the type {name}, which is not read here")


def _type_name(number: int) -> str:
    from onnx import TensorProto

    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else str(number)


def _check_names(what: str, given: set[str], needed: set[str]) -> None:
    for name in sorted(given - needed):
        raise BadArtifact(f"the graph has no {what} {name[:80]!r}")
    for name in sorted(needed - given):
        raise BadArtifact(f"the graph's {what} {name[:80]!r} is not described")
