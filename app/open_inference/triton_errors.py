"""Error texts as Triton writes them, because operators search for them."""

from __future__ import annotations

from collections.abc import Sequence

from app.errors import (
    CarryoverError,
    SessionGone,
    UnknownModel,
    UnknownSession,
    Unprocessable,
    Unsupported,
)


def no_sequence(model: str) -> Unprocessable:
    """The request names no sequence."""
    return Unprocessable(
        f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID"
    )


def not_started(error: CarryoverError, sequence: int | str, model: str) -> CarryoverError:
    """Triton's error where a request without START found no session; any other error is returned as it is."""
    if not isinstance(error, UnknownSession | SessionGone):
        return error
    text = (
        f"inference request for sequence {sequence} to model '{model}' must specify the START flag "
        "on the first request of the sequence"
    )
    reason = f": {error.detail}" if isinstance(error, SessionGone) else ""
    return type(error)(text + reason, **error.extra)


def unknown_model(model: str, version: str = "") -> UnknownModel:
    """There is no model of this name, or no such version of it."""
    which = f"'{model}' version {version}" if version else f"'{model}'"
    return UnknownModel(f"Request for unknown model: {which} is not found")


def model_unloaded(model: str) -> UnknownModel:
    """The model was unloaded."""
    return UnknownModel(f"Request for unknown model: '{model}' has no available versions")


def wrong_batch_size(model: str) -> Unprocessable:
    """A batch of several rows for one sequence."""
    return Unprocessable(
        f"inference request to model '{model}' must specify batch-size 1 "
        "due to requirements of sequence batcher"
    )


def wrong_type(name: str, datatype: str, expected: str, model: str) -> Unprocessable:
    """An input of another data type."""
    return Unprocessable(
        f"inference input '{name}' data-type is '{datatype}', but model '{model}' expects '{expected}'"
    )


def wrong_shape(name: str, model: str, expected: Sequence[int], given: Sequence[int]) -> Unprocessable:
    """An input of another shape."""
    return Unprocessable(
        f"unexpected shape for input '{name}' for model '{model}'. "
        f"Expected {_shape(expected)}, got {_shape(given)}"
    )


def wrong_inputs(names: Sequence[str], expected: Sequence[str], model: str) -> Unprocessable:
    """The inputs are not exactly the expected ones."""
    other = next((name for name in names if name not in expected), None)
    if other is not None:
        return Unprocessable(f"unexpected inference input '{other}' for model '{model}'")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return Unprocessable(f"input '{twice}' already exists in request")
    missing = [name for name in expected if name not in names]
    return Unprocessable(
        f"expected {len(expected)} inputs but got {len(names)} inputs for model '{model}'. Got input(s) "
        f"{list(names)}, but missing required input(s) {missing}. Please provide all required input(s)."
    )


def wrong_output(name: str, model: str, reason: str = "") -> Unprocessable:
    """The model does not have the output, or the request lacks a parameter for it."""
    return Unprocessable(f"unexpected inference output '{name}' for model '{model}'{reason}")


def too_few_bytes(name: str, model: str, missing: int) -> Unprocessable:
    """The body ends before its binary tensors do."""
    return Unprocessable(
        f"unexpected size for input '{name}', expecting {missing} additional bytes for model '{model}'"
    )


def too_many_bytes(model: str) -> Unprocessable:
    """The body continues after its binary tensors."""
    return Unprocessable(f"unexpected additional input data for model '{model}'")


def wrong_bytes(name: str, model: str, expected: int, given: int) -> Unprocessable:
    """The number of bytes does not fit the shape."""
    return Unprocessable(
        f"input byte size mismatch for input '{name}' for model '{model}'. Expected {expected}, got {given}"
    )


def unsupported(feature: str) -> Unsupported:
    """The server does not support this part of the protocol."""
    return Unsupported(f"{feature} is not supported by this server")


def _shape(numbers: Sequence[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"
