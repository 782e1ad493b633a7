"""A body of `infer`: JSON, JSON with binary tensors behind it, or the bytes of the one input alone.

The header `Inference-Header-Content-Length` alone decides which: it is absent, the length of the JSON, or 0.
It counts bytes before compression.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from app.codec import chunks, compression
from app.codec.limits import DECODE_ERRORS, Limits
from app.errors import Malformed, Unprocessable, UnsupportedType
from app.open_inference import triton_errors
from app.open_inference.inference import OBSERVATIONS, Inference, Parameters, check_outputs, parse_error
from app.open_inference.tensors import check_input, from_bytes, from_numbers
from models.arrays import Floats
from models.forecaster import Forecaster

Data = list[float | list[float | list[float | None] | None] | None]


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
    if text.isascii() and text.isdigit() and int(text[:20]) <= size:
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
    observations = _observations(request.inputs, tail, parameters, model, forecaster, limits)
    return Inference(model, observations, parameters, request.id, outputs, binary)


def _from_raw(
    body: bytes, query: Mapping[str, str], model: str, forecaster: Forecaster, limits: Limits
) -> Inference:
    """The body is one input, whose length gives the number of steps; outputs are returned as bytes too."""
    width = forecaster.input_size
    size = (len(body) // (4 * width), width)
    # Numbers and booleans are converted from text; a sequence's id stays a text.
    texts = {name: value for name, value in query.items() if name != "sequence_id"}
    try:
        parameters = msgspec.convert(texts, Parameters, strict=False)
    except msgspec.ValidationError as error:
        raise parse_error(str(error)) from None
    sequence = query.get("sequence_id", "")
    parameters.sequence_id = "" if sequence.strip("0") == "" else sequence
    observations = from_bytes(body, OBSERVATIONS, size, model, limits, parameters.gaps)
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


def _observations(
    inputs: list[Input],
    tail: bytes | memoryview,
    request: Parameters,
    model: str,
    forecaster: Forecaster,
    limits: Limits,
) -> Floats:
    if len(inputs) != 1 or inputs[0].name != OBSERVATIONS:
        raise triton_errors.wrong_inputs([tensor.name for tensor in inputs], OBSERVATIONS, model)
    tensor = inputs[0]
    parameters = tensor.parameters
    if parameters.shared_memory_region is not None:
        raise triton_errors.unsupported("shared memory")
    size = check_input(tensor.name, tensor.datatype, tensor.shape, model, forecaster)
    length = parameters.binary_data_size
    if length is None and tensor.data is not None:
        if len(tail):
            raise triton_errors.too_many_bytes(model)
        observations, gaps = from_numbers(tensor.data, size, limits)
        request.gaps |= gaps
        return observations
    if length is None or tensor.data is not None:
        raise Unprocessable("an input has either 'data' or 'binary_data_size' in 'parameters'")
    if length > len(tail):
        raise triton_errors.too_few_bytes(tensor.name, model, length - len(tail))
    if length < len(tail):
        raise triton_errors.too_many_bytes(model)
    return from_bytes(tail, tensor.name, size, model, limits, request.gaps)
