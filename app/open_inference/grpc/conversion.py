"""An inference from a `ModelInferRequest`, and a `ModelInferResponse` from its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
    parameters,
    response_parameters,
)
from app.open_inference.tensors import check_input, from_bytes
from models.arrays import Floats
from models.forecaster import Forecaster

Response = message("ModelInferResponse")
KINDS = {bool: "bool_param", int: "int64_param", str: "string_param"}


def read(request: Any, forecaster: Forecaster, limits: Limits) -> Inference:
    """The inference that a request asks for.

    Raises
    ------
    CarryoverError : worded as Triton words it
    """
    model = request.model_name
    told = plain_values(request.parameters)
    sequence = told.get("sequence_id", 0)
    if isinstance(sequence, int) and not isinstance(sequence, bool):
        # Clients have a signed field for it only: what is above 2**63 comes as the negative of the same bits.
        told["sequence_id"] = sequence & MAX_SEQUENCE_ID
    for output in request.outputs:
        _check_output(plain_values(output.parameters))
    wanted = check_outputs({output.name: True for output in request.outputs}, model, forecaster)
    asked = parameters(told)
    observations = _observations(request, asked.gaps, forecaster, limits)
    return Inference(model, observations, asked, request.id, wanted, binary=True)


def plain_values(told: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as plain values."""
    found = {}
    for name, value in told.items():
        kind = value.WhichOneof("choice")
        if kind is not None:
            found[name] = getattr(value, kind)
    return found


def encode_response(asked: Inference, answer: ChunkAnswer) -> Any:
    """The response, its numbers as bytes."""
    told = Response(model_name=answer.model, model_version=VERSION, id=asked.id)
    for name, value in response_parameters(answer).items():
        setattr(told.parameters[name], KINDS[type(value)], value)
    for name, numbers in asked.outputs(answer):
        told.outputs.add(name=name, datatype="FP32", shape=(1, *numbers.shape))
        told.raw_output_contents.append(numbers.astype("<f4", copy=False).tobytes())
    return told


def _check_output(told: Mapping[str, Any]) -> None:
    if told.get("classification"):
        raise triton_errors.unsupported("classification")
    if "shared_memory_region" in told:
        raise triton_errors.unsupported("shared memory")


def _observations(request: Any, gaps: bool, forecaster: Forecaster, limits: Limits) -> Floats:
    model, inputs, raw = request.model_name, request.inputs, request.raw_input_contents
    if len(inputs) != 1 or inputs[0].name != OBSERVATIONS:
        raise triton_errors.wrong_inputs([tensor.name for tensor in inputs], OBSERVATIONS, model)
    tensor = inputs[0]
    if "shared_memory_region" in tensor.parameters:
        raise triton_errors.unsupported("shared memory")
    size = check_input(tensor.name, tensor.datatype, list(tensor.shape), model, forecaster)
    numbers = tensor.contents.fp32_contents
    if raw and (len(raw) != 1 or len(numbers)):
        raise Unprocessable(
            f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
            f"for model '{model}'"
        )
    data = raw[0] if raw else np.array(numbers, "<f4").tobytes()
    return from_bytes(data, tensor.name, size, model, limits, gaps)
