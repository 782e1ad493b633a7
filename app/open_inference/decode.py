"""A body of `infer`: JSON, JSON with binary tensors behind it, or the bytes of the one input alone.

Which of them is told by the header `Inference-Header-Content-Length` only, as clients rely on: it is absent,
the length of the JSON, or 0. It counts what was not compressed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import msgspec

from app.codec import chunks
from app.codec.limits import DECODE_ERRORS, Limits
from app.errors import Malformed, TooLarge, Unprocessable
from app.open_inference import triton_errors
from app.open_inference.inference import OBSERVATIONS, Inference, Parameters, check_outputs, parse_error
from app.open_inference.tensors import check_input, from_bytes, from_numbers
from models.arrays import Floats
from models.forecaster import Forecaster

Data = list[float | list[float | list[float | None] | None] | None]
WINDOW_BITS = {"gzip": 31, "deflate": 15}  # for zlib: which wrapping to expect


class TensorParameters(msgspec.Struct, frozen=True):
    """Of an input or an output; any other passes."""

    binary_data_size: int | None = None
    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None


PLAIN = TensorParameters()


class Input(msgspec.Struct):
    """A tensor that comes in."""

    name: str
    shape: list[int]
    datatype: str
    data: Data | None = None
    parameters: TensorParameters = PLAIN


class Wanted(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: TensorParameters = PLAIN


class Body(msgspec.Struct):
    """The JSON of a request."""

    inputs: list[Input]
    id: str = ""
    parameters: Parameters = msgspec.field(default_factory=Parameters)
    outputs: list[Wanted] = []


_decode = msgspec.json.Decoder(Body).decode


def read(
    body: bytes,
    header_length: str,
    query: Mapping[str, str],
    model: str,
    forecaster: Forecaster,
    limits: Limits,
) -> Inference:
    """The inference that a body asks for.

    Parameters
    ----------
    body : not compressed any more
    header_length : `Inference-Header-Content-Length`; empty for none
    query : parameters in the address: the only place for those of a body of one raw input

    Raises
    ------
    CarryoverError : worded as Triton words it
    """
    if not header_length:
        return _from_json(body, b"", model, forecaster, limits)
    length = _header_length(header_length, len(body))
    if length == 0:
        return _from_raw(body, query, model, forecaster, limits)
    return _from_json(body[:length], memoryview(body)[length:], model, forecaster, limits)


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """A body as it was before `Content-Encoding`.

    Raises
    ------
    Unsupported : of a kind that is neither gzip nor deflate
    Malformed : it cannot be decompressed
    TooLarge : more than `most` bytes
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in WINDOW_BITS:
        raise triton_errors.unsupported(f"content encoding {encoding[:40]!r}")
    stream = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        plain = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise Malformed(f"the body is not {encoding}: {error}") from None
    if len(plain) > most:
        raise TooLarge(f"a body has at most {most} bytes", limit=most)
    if not stream.eof:
        raise Malformed(f"the body is not {encoding}: it ends too early")
    return plain


def _header_length(told: str, size: int) -> int:
    if told.isascii() and told.isdigit() and int(told[:20]) <= size:
        return int(told)
    raise Malformed(f"inference header size should be in range (0, {size}), got: {told[:20]}")


def _from_json(
    text: bytes,
    tail: bytes | memoryview,
    model: str,
    forecaster: Forecaster,
    limits: Limits,
) -> Inference:
    chunks.check_size(text, limits)
    try:
        told = _decode(text)
    except msgspec.ValidationError as error:
        raise parse_error(str(error)) from None
    except DECODE_ERRORS as error:
        raise Malformed(f"failed to parse the request JSON buffer: {error}") from None
    binary = told.parameters.binary_data_output
    wanted = check_outputs(_wanted(told.outputs, binary), model, forecaster)
    parameters = told.parameters
    observations = _observations(told.inputs, tail, parameters, model, forecaster, limits)
    return Inference(model, observations, parameters, told.id, wanted, binary)


def _from_raw(
    body: bytes, query: Mapping[str, str], model: str, forecaster: Forecaster, limits: Limits
) -> Inference:
    """One input, its length telling its steps; what it is answered with goes as bytes, too."""
    width = forecaster.input_size
    size = (len(body) // (4 * width), width)
    # Texts of numbers and of truths become what they are; a sequence's id stays as it was written.
    plain = {name: value for name, value in query.items() if name != "sequence_id"}
    try:
        parameters = msgspec.convert(plain, Parameters, strict=False)
    except msgspec.ValidationError as error:
        raise parse_error(str(error)) from None
    sequence = query.get("sequence_id", "")
    parameters.sequence_id = "" if sequence.strip("0") == "" else sequence
    observations = from_bytes(body, OBSERVATIONS, size, model, limits, parameters.gaps)
    return Inference(model, observations, parameters, binary=True)


def _wanted(outputs: list[Wanted], binary: bool) -> dict[str, bool]:
    for output in outputs:
        if output.parameters.classification:
            raise triton_errors.unsupported("classification")
        if output.parameters.shared_memory_region is not None:
            raise triton_errors.unsupported("shared memory")
    told = ((output.name, output.parameters.binary_data) for output in outputs)
    return {name: binary if mine is None else mine for name, mine in told}


def _observations(
    inputs: list[Input],
    tail: bytes | memoryview,
    told: Parameters,
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
        told.gaps |= gaps
        return observations
    if length is None or tensor.data is not None:
        raise Unprocessable("an input has either 'data' or 'binary_data_size' in 'parameters'")
    if length > len(tail):
        raise triton_errors.too_few_bytes(tensor.name, model, length - len(tail))
    if length < len(tail):
        raise triton_errors.too_many_bytes(model)
    return from_bytes(tail, tensor.name, size, model, limits, told.gaps)
