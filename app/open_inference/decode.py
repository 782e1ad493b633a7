"""A body of `infer`: JSON, JSON with binary tensors behind it, or the bytes of the only input alone.

The header `Inference-Header-Content-Length` alone decides which: it is absent, the length of the JSON, or 0.
It counts bytes before compression.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from app.codec import chunks, compression
from app.codec.limits import DECODE_ERRORS, Limits
from app.errors import Malformed, Unprocessable, UnsupportedType
from app.open_inference import triton_errors
from app.open_inference.inference import Inference, Parameters, check_outputs, parse_error
from app.open_inference.tensors import (
    InputTensor,
    check_input,
    check_inputs,
    from_bytes,
    from_numbers,
    join_inputs,
)
from models.arrays import Numbers
from models.forecaster import Forecaster

Number = float | bool | None
Data = list[Number | list[Number | list[Number]]]
MAX_LENGTH_DIGITS = 20  # of the length of the JSON
NO_OBSERVATIONS: Numbers = np.empty((0, 0), np.float32)


class TensorParameters(msgspec.Struct, frozen=True):
    """Parameters of an input or an output; unknown ones are ignored."""

    binary_data_size: int | None = None
    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None


PLAIN = TensorParameters()


class Input(msgspec.Struct):
    """An input tensor."""

    name: str
    shape: list[int]
    datatype: str
    data: Data | None = None
    parameters: TensorParameters = PLAIN


class RequestedOutput(msgspec.Struct):
    """An output that the request names."""

    name: str
    parameters: TensorParameters = PLAIN


class Body(msgspec.Struct):
    """The JSON of a request."""

    inputs: list[Input]
    id: str = ""
    parameters: Parameters = msgspec.field(default_factory=Parameters)
    outputs: list[RequestedOutput] = []


_decode = msgspec.json.Decoder(Body).decode


def decode_request(
    body: bytes,
    header_length: str,
    query: Mapping[str, str],
    model: str,
    forecaster: Forecaster,
    limits: Limits,
) -> Inference:
    """Decode the body of a request.

    Parameters
    ----------
    body : decompressed
    header_length : `Inference-Header-Content-Length`; empty for none
    query : parameters of the URL, used where the body is one raw input

    Raises
    ------
    CarryoverError : with Triton's texts
    """
    if not header_length:
        return _from_json(body, b"", model, forecaster, limits)
    length = _header_length(header_length, len(body))
    if length == 0:
        return _from_raw(body, query, model, forecaster, limits)
    return _from_json(body[:length], memoryview(body)[length:], model, forecaster, limits)


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo the `Content-Encoding` of a body.

    Raises
    ------
    Unsupported : neither gzip nor deflate
    Malformed : it cannot be decompressed
    TooLarge : more than `max_bytes` bytes
    """
    try:
        return compression.decompress(body, encoding, max_bytes)
    except UnsupportedType:
        raise triton_errors.unsupported(f"content encoding {encoding[:40]!r}") from None


def _header_length(text: str, size: int) -> int:
    if text.isascii() and text.isdigit() and len(text) <= MAX_LENGTH_DIGITS and int(text) <= size:
        return int(text)
    raise Malformed(f"inference header size should be in range (0, {size}), got: {text[:20]}")


def _from_json(
    text: bytes,
    tail: bytes | memoryview,
    model: str,
    forecaster: Forecaster,
    limits: Limits,
) -> Inference:
    chunks.check_size(text, limits)
    try:
        request = _decode(text)
    except msgspec.ValidationError as error:
        raise parse_error(str(error)) from None
    except DECODE_ERRORS as error:
        raise Malformed(f"failed to parse the request JSON buffer: {error}") from None
    parameters = request.parameters
    binary = parameters.binary_data_output
    outputs = check_outputs(_requested_outputs(request.outputs, binary), model, forecaster)
    return _with_inputs(
        Inference(model, NO_OBSERVATIONS, parameters, request.id, outputs, binary),
        request.inputs,
        tail,
        forecaster,
        limits,
    )


def _from_raw(
    body: bytes, query: Mapping[str, str], model: str, forecaster: Forecaster, limits: Limits
) -> Inference:
    """The body is one input, whose length gives the number of steps; outputs are returned as bytes too."""
    ports = forecaster.artifact.input_ports
    if len(ports) != 1:
        raise triton_errors.unsupported("a raw body for a model with several inputs")
    (port,) = ports
    tensor = InputTensor(port, len(body) // (port.type.itemsize * port.size), True)
    # Numbers and booleans are converted from text; a sequence's id stays a text.
    texts = {name: value for name, value in query.items() if name != "sequence_id"}
    try:
        parameters = msgspec.convert(texts, Parameters, strict=False)
    except msgspec.ValidationError as error:
        raise parse_error(str(error)) from None
    sequence = query.get("sequence_id", "")
    parameters.sequence_id = "" if sequence.strip("0") == "" else sequence
    tensors = {port.name: (tensor, from_bytes(body, tensor, model))}
    observations = join_inputs(tensors, forecaster, limits, gaps=parameters.gaps)
    return Inference(model, observations, parameters, binary=True)


def _requested_outputs(outputs: list[RequestedOutput], binary: bool) -> dict[str, bool]:
    """Names, each with whether its numbers are sent as bytes."""
    for output in outputs:
        if output.parameters.classification:
            raise triton_errors.unsupported("classification")
        if output.parameters.shared_memory_region is not None:
            raise triton_errors.unsupported("shared memory")
    own = {output.name: output.parameters.binary_data for output in outputs}
    return {name: binary if choice is None else choice for name, choice in own.items()}


def _with_inputs(
    inference: Inference,
    inputs: list[Input],
    tail: bytes | memoryview,
    forecaster: Forecaster,
    limits: Limits,
) -> Inference:
    """Put in the observations. The binary inputs are in `tail`, in the order of the request."""
    model = inference.model
    ports = check_inputs([given.name for given in inputs], model, forecaster)
    tensors: dict[str, tuple[InputTensor, Numbers]] = {}
    start = 0
    for given in inputs:
        if given.parameters.shared_memory_region is not None:
            raise triton_errors.unsupported("shared memory")
        tensor = check_input(ports[given.name], given.datatype, given.shape, model, forecaster)
        length = given.parameters.binary_data_size
        if (length is None) == (given.data is None):
            raise Unprocessable("an input has either 'data' or 'binary_data_size' in 'parameters'")
        if given.data is not None:
            numbers = from_numbers(given.data, tensor)
            # JSON has no NaN: a NaN here was null.
            inference.parameters.gaps |= bool(np.isnan(numbers).any())
        else:
            end = start + (length or 0)
            if not start <= end <= len(tail):
                raise triton_errors.too_few_bytes(given.name, model, end - len(tail))
            numbers = from_bytes(tail[start:end], tensor, model)
            start = end
        tensors[given.name] = tensor, numbers
    if start < len(tail):
        raise triton_errors.too_many_bytes(model)
    inference.observations = join_inputs(tensors, forecaster, limits, gaps=inference.parameters.gaps)
    inference.has_steps = all(tensor.has_steps for tensor, _ in tensors.values())
    return inference
