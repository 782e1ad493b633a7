"""An inference from a `ModelInferRequest`, and a `ModelInferResponse` from its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.codec.limits import Limits
from app.errors import Unprocessable
from app.jobs.answers import ChunkAnswer
from app.open_inference import triton_errors
from app.open_inference.grpc.messages import message
from app.open_inference.inference import (
    MAX_SEQUENCE_ID,
    OBSERVATIONS,
    VERSION,
    Inference,
    check_outputs,
    parse_parameters,
    response_parameters,
)
from app.open_inference.tensors import check_input, from_bytes
from models.arrays import Floats
from models.forecaster import Forecaster

Response = message("ModelInferResponse")
Contents = message("InferTensorContents")
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
    observations = _observations(request, parameters.gaps, forecaster, limits)
    return Inference(model, observations, parameters, request.id, outputs, binary=True)


def plain_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as plain values, without those that have none."""
    kinds = {name: value.WhichOneof("choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], kind) for name, kind in kinds.items() if kind is not None}


def encode_response(inference: Inference, answer: ChunkAnswer) -> Any:
    """The response, with all numbers as bytes."""
    response = Response(model_name=answer.model, model_version=VERSION, id=inference.id)
    for name, value in response_parameters(answer).items():
        setattr(response.parameters[name], KINDS[type(value)], value)
    for name, numbers in inference.outputs(answer):
        response.outputs.add(name=name, datatype="FP32", shape=(1, *numbers.shape))
        response.raw_output_contents.append(numbers.astype("<f4", copy=False).tobytes())
    return response


def _check_output(parameters: Mapping[str, Any]) -> None:
    if parameters.get("classification"):
        raise triton_errors.unsupported("classification")
    if "shared_memory_region" in parameters:
        raise triton_errors.unsupported("shared memory")


def _observations(request: Any, gaps: bool, forecaster: Forecaster, limits: Limits) -> Floats:
    model, inputs, raw = request.model_name, request.inputs, request.raw_input_contents
    if len(inputs) != 1 or inputs[0].name != OBSERVATIONS:
        raise triton_errors.wrong_inputs([tensor.name for tensor in inputs], OBSERVATIONS, model)
    tensor = inputs[0]
    if "shared_memory_region" in tensor.parameters:
        raise triton_errors.unsupported("shared memory")
    size = check_input(tensor.name, tensor.datatype, list(tensor.shape), model, forecaster)
    typed = tensor.contents
    if raw and (len(raw) != 1 or len(typed.fp32_contents)):
        raise Unprocessable(
            f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
            f"for model '{model}'"
        )
    data = raw[0] if raw else _packed_floats(typed)
    return from_bytes(data, tensor.name, size, model, limits, gaps)


def _packed_floats(contents: Any) -> bytes:
    """`fp32_contents` as bytes, which Python could otherwise read only number by number."""
    size = 4 * len(contents.fp32_contents)
    only_floats = Contents()
    only_floats.CopyFrom(contents)
    for field in ("fp64_contents", "bytes_contents"):
        only_floats.ClearField(field)
    only_floats.DiscardUnknownFields()  # now the packed floats come last
    return only_floats.SerializeToString()[-size:] if size else b""
