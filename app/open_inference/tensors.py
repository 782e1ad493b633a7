"""The tensors of a request and of an answer, and the rows of numbers that the engine takes and gives.

Each input and output of a model is a tensor of its own name and type, of one batch row: [1, steps, *shape].
A graph without a time axis may also be sent [1, *shape] for a single step, and then answers so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.codec import chunks
from app.codec.limits import MAX_EXACT_FLOAT32, Limits
from app.errors import Unprocessable
from app.open_inference import triton_errors
from models.arrays import AnyArray, Numbers
from models.forecaster import Forecaster
from models.nets.signature import Port

DATATYPES = {
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "int64": "INT64",
    "int32": "INT32",
    "uint8": "UINT8",
    "bool": "BOOL",
}
FEW = 16  # so few numbers are checked faster by plain Python than by NumPy


@dataclass(slots=True)
class InputTensor:
    """An input of a request, its type and shape checked.

    has_steps : whether its shape has an axis for the steps
    """

    port: Port
    steps: int
    has_steps: bool

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.steps * self.port.size


def check_inputs(names: Sequence[str], model: str, forecaster: Forecaster) -> dict[str, Port]:
    """The model's inputs by name, if the request has each of them once.

    Raises
    ------
    Unprocessable
    """
    ports = {port.name: port for port in forecaster.artifact.input_ports}
    if len(names) != len(ports) or set(names) != ports.keys():
        raise triton_errors.wrong_inputs(names, list(ports), model)
    return ports


def check_input(
    port: Port, datatype: str, shape: Sequence[int], model: str, forecaster: Forecaster
) -> InputTensor:
    """Check type and shape of an input.

    Raises
    ------
    Unprocessable : another type or shape than the model's, or more than one row for a sequence
    """
    expected = DATATYPES[port.dtype]
    if datatype != expected:
        raise triton_errors.wrong_type(port.name, datatype, expected, model)
    has_steps = forecaster.artifact.has_time_axis or len(shape) == 2 + len(port.shape)
    if tuple(shape[1 + has_steps :]) != port.shape or len(shape) != 1 + has_steps + len(port.shape):
        raise triton_errors.wrong_shape(port.name, model, tensor_shape(port, forecaster), shape)
    if shape[0] != 1:
        raise triton_errors.wrong_batch_size(model)
    return InputTensor(port, shape[1] if has_steps else 1, has_steps)


def tensor_shape(port: Port, forecaster: Forecaster) -> list[int]:
    """The shape of an input or output; -1 for any size."""
    return [-1, *[-1] * forecaster.artifact.has_time_axis, *port.shape]


def from_bytes(data: bytes | memoryview, tensor: InputTensor, model: str) -> Numbers:
    """Little-endian numbers as [steps, numbers of the input].

    Raises
    ------
    Unprocessable : the number of bytes does not fit the shape
    """
    port = tensor.port
    # A byte that is no boolean is found where all numbers are checked.
    kind = np.dtype("u1") if port.dtype == "bool" else port.type.newbyteorder("<")
    expected = kind.itemsize * tensor.size
    if len(data) != expected:
        raise triton_errors.wrong_bytes(port.name, model, expected, len(data))
    # A copy: it is aligned, and the body that holds the bytes can be freed.
    numbers: Numbers = np.frombuffer(data, kind).astype(np.float64 if kind.kind == "i" else np.float32)
    return numbers.reshape(tensor.steps, port.size)


def from_numbers(data: Sequence[Any], tensor: InputTensor) -> Numbers:
    """Flat or nested numbers as [steps, numbers of the input]; NaN where null.

    Raises
    ------
    Unprocessable : the number of values does not fit the shape
    """
    shape = tensor.steps, tensor.port.size
    if tensor.size <= FEW and len(data) == tensor.size and _is_plain(data):
        return np.array(data, np.float32).reshape(shape)
    try:
        numbers: Numbers = np.array(data, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise Unprocessable("Unable to parse 'data': its lists differ in length") from None
    if numbers.size != tensor.size:
        raise Unprocessable("Unable to parse 'data': Shape does not match true shape of 'data' field")
    return numbers.reshape(shape)


def join_inputs(
    tensors: Mapping[str, tuple[InputTensor, Numbers]], forecaster: Forecaster, limits: Limits, *, gaps: bool
) -> Numbers:
    """The observations, [steps, inputs], of all inputs by name; with `gaps`, NaN means "not observed".

    Raises
    ------
    Unprocessable : the inputs differ in steps; NaN or infinity; no step
    TooLarge
    """
    ports = forecaster.artifact.input_ports
    first, _ = tensors[ports[0].name]
    for tensor, _ in tensors.values():
        if (tensor.steps, tensor.has_steps) != (first.steps, first.has_steps):
            raise Unprocessable(
                f"input '{first.port.name}' has {first.steps} steps, "
                f"input '{tensor.port.name}' has {tensor.steps}"
            )
    columns = [tensors[port.name][1] for port in ports]
    observations = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
    with np.errstate(over="ignore"):
        observations = forecaster.numbers(observations)
    if not (_is_short(observations, limits) and math.isfinite(sum(observations.ravel().tolist()))):
        chunks.check_observations(observations, limits, gaps=gaps)
    return observations


def output_tensors(numbers: Numbers, ports: Sequence[Port]) -> dict[str, AnyArray]:
    """Predictions, [steps, outputs], as a tensor for each output: [steps, *shape] of the output's type."""
    tensors: dict[str, AnyArray] = {}
    stop = 0
    for port in ports:
        start, stop = stop, stop + port.size
        part = numbers[:, start:stop].astype(port.type, copy=False)
        tensors[port.name] = part.reshape(len(numbers), *port.shape)
    return tensors


def _is_short(observations: Numbers, limits: Limits) -> bool:
    return 0 < len(observations) <= limits.observations and observations.size <= FEW


def _is_plain(data: Sequence[Any]) -> bool:
    """Whether a flat list contains only numbers that float32 holds."""
    try:
        return bool(min(data) >= -MAX_EXACT_FLOAT32 and max(data) <= MAX_EXACT_FLOAT32)
    except (TypeError, ValueError):  # nested, empty, or with nulls
        return False
