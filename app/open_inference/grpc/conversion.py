"""An inference from a `ModelInferRequest`, and a `ModelInferResponse` from its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.codec.limits import Limits
from app.errors import Unprocessable
from app.jobs.answers import ChunkAnswer
from app.open_inference import tensors, triton_errors
from app.open_inference.encode import little_endian
from app.open_inference.grpc.messages import message
from app.open_inference.inference import (
    MAX_SEQUENCE_ID,
    VERSION,
    Inference,
    check_outputs,
    parse_parameters,
    response_parameters,
)
from models.arrays import Numbers
from models.forecaster import Forecaster

Response = message("ModelInferResponse")
Contents = message("InferTensorContents")
# Where numbers of these types are, if they are not sent as bytes.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
}
KINDS = {bool: "bool_param", int: "int64_param", str: "string_param"}


def decode_request(request: Any, forecaster: Forecaster, limits: Limits) -> Inference:
    """Decode a request.

    Raises
    ------
    CarryoverError : with Triton's texts
    """
    model = request.model_name
    values = plain_values(request.parameters)
    sequence = values.get("sequence_id", 0)
    if isinstance(sequence, int) and not isinstance(sequence, bool):
        # Clients send it in a signed field: an id of 2**63 or more arrives as a negative number.
        values["sequence_id"] = sequence & MAX_SEQUENCE_ID
    for output in request.outputs:
        _check_output(plain_values(output.parameters))
    outputs = check_outputs({output.name: True for output in request.outputs}, model, forecaster)
    parameters = parse_parameters(values)
    given = _inputs(request, forecaster)
    observations = tensors.join_inputs(given, forecaster, limits, gaps=parameters.gaps)
    has_steps = all(tensor.has_steps for tensor, _ in given.values())
    return Inference(model, observations, parameters, request.id, outputs, binary=True, has_steps=has_steps)


def plain_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as plain values, without those that have none."""
    kinds = {name: value.WhichOneof("choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], kind) for name, kind in kinds.items() if kind is not None}


def encode_response(inference: Inference, answer: ChunkAnswer) -> Any:
    """The response, with all numbers as bytes."""
    response = Response(model_name=answer.model, model_version=VERSION, id=inference.id)
    for name, value in response_parameters(answer).items():
        setattr(response.parameters[name], KINDS[type(value)], value)
    for name, tensor in inference.outputs(answer):
        response.outputs.add(name=name, datatype=tensors.DATATYPES[tensor.dtype.name], shape=tensor.shape)
        response.raw_output_contents.append(little_endian(tensor))
    return response


def _check_output(parameters: Mapping[str, Any]) -> None:
    if parameters.get("classification"):
        raise triton_errors.unsupported("classification")
    if "shared_memory_region" in parameters:
        raise triton_errors.unsupported("shared memory")


def _inputs(request: Any, forecaster: Forecaster) -> dict[str, tuple[tensors.InputTensor, Numbers]]:
    """The inputs by name."""
    model, inputs, raw = request.model_name, request.inputs, request.raw_input_contents
    ports = tensors.check_inputs([given.name for given in inputs], model, forecaster)
    if raw and (len(raw) != len(inputs) or any(given.contents.ByteSize() for given in inputs)):
        raise Unprocessable(
            f"contents field must not be specified when using raw_input_contents for '{inputs[0].name}' "
            f"for model '{model}'"
        )
    by_name = {}
    for i, given in enumerate(inputs):
        if "shared_memory_region" in given.parameters:
            raise triton_errors.unsupported("shared memory")
        tensor = tensors.check_input(ports[given.name], given.datatype, list(given.shape), model, forecaster)
        if raw:
            numbers = tensors.from_bytes(raw[i], tensor, model)
        elif given.datatype == "FP32":
            numbers = tensors.from_bytes(_packed_floats(given.contents), tensor, model)
        elif given.datatype in CONTENTS:
            numbers = tensors.from_numbers(getattr(given.contents, CONTENTS[given.datatype]), tensor)
        else:
            raise triton_errors.unsupported(f"{given.datatype} in the contents field")
        by_name[given.name] = tensor, numbers
    return by_name


def _packed_floats(contents: Any) -> bytes:
    """`fp32_contents` as bytes, which Python could otherwise read only number by number."""
    size = 4 * len(contents.fp32_contents)
    only_floats = Contents()
    only_floats.CopyFrom(contents)
    for field in ("fp64_contents", "bytes_contents"):
        only_floats.ClearField(field)
    only_floats.DiscardUnknownFields()  # now the packed floats come last
    return only_floats.SerializeToString()[-size:] if size else b""
