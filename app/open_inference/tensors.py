"""The one input of a request, from JSON or bytes: checked, and as an array [steps, inputs]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.codec import chunks
from app.codec.limits import MAX_FLOAT32, Limits
from app.errors import Unprocessable
from app.open_inference import triton_errors
from models.arrays import Floats
from models.forecaster import Forecaster

FLOAT32 = np.dtype("<f4")
FEW = 16  # so few numbers are checked faster by plain Python than by NumPy


def check_input(
    name: str, datatype: str, shape: Sequence[int], model: str, forecaster: Forecaster
) -> tuple[int, int]:
    """Check type and shape of the input, and return (steps, inputs).

    Raises
    ------
    Unprocessable : another type or shape than the model's, or more than one row for a sequence
    """
    if datatype != "FP32":
        raise triton_errors.wrong_type(name, datatype, model)
    if len(shape) != 3 or shape[2] != forecaster.input_size:
        raise triton_errors.wrong_shape(name, model, (-1, -1, forecaster.input_size), shape)
    if shape[0] != 1:
        raise triton_errors.wrong_batch_size(model)
    return shape[1], shape[2]


def from_bytes(
    data: bytes | memoryview,
    name: str,
    size: tuple[int, int],
    model: str,
    limits: Limits,
    gaps: bool,
) -> Floats:
    """Little-endian float32 as [steps, inputs]; with `gaps`, NaN means "not observed".

    Raises
    ------
    Unprocessable : the number of bytes does not fit the shape; NaN or infinity; no step
    TooLarge
    """
    expected = 4 * size[0] * size[1]
    if len(data) != expected:
        raise triton_errors.wrong_bytes(name, model, expected, len(data))
    # A copy: it is aligned, and the body that holds the bytes can be freed.
    observations = np.frombuffer(data, FLOAT32).astype(np.float32).reshape(size)
    if not (_is_short(size, limits) and math.isfinite(sum(observations.ravel().tolist()))):
        chunks.check_observations(observations, limits, gaps=gaps)
    return observations


def from_numbers(data: list[Any], size: tuple[int, int], limits: Limits) -> tuple[Floats, bool]:
    """Flat or nested numbers as [steps, inputs], and whether any is null.

    Raises
    ------
    Unprocessable : the number of values does not fit the shape; beyond float32; no step
    TooLarge
    """
    if _is_short(size, limits) and len(data) == size[0] * size[1] and _is_plain(data):
        return np.array(data, np.float32).reshape(size), False
    with np.errstate(over="ignore"):
        try:
            numbers = np.array(data, np.float64).astype(np.float32)
        except (ValueError, TypeError, OverflowError):
            raise Unprocessable("Unable to parse 'data': its lists differ in length") from None
    if numbers.size != size[0] * size[1]:
        raise Unprocessable("Unable to parse 'data': Shape does not match true shape of 'data' field")
    observations = numbers.reshape(size)
    chunks.check_observations(observations, limits, gaps=True)  # JSON has no NaN: a NaN here was null
    return observations, bool(np.isnan(observations).any())


def _is_short(size: tuple[int, int], limits: Limits) -> bool:
    return 0 < size[0] <= limits.observations and size[0] * size[1] <= FEW


def _is_plain(data: list[Any]) -> bool:
    """Whether a flat list contains only numbers in the range of float32."""
    try:
        return bool(min(data) >= -MAX_FLOAT32 and max(data) <= MAX_FLOAT32)
    except (TypeError, ValueError):  # nested, empty, or with nulls
        return False
