"""How Triton words what it refuses: its clients' operators search for these sentences."""

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
    """Why a request that starts nothing found no session; any other error is itself."""
    if not isinstance(error, UnknownSession | SessionGone):
        return error
    told = (
        f"inference request for sequence {sequence} to model '{model}' must specify the START flag "
        "on the first request of the sequence"
    )
    more = f": {error.detail}" if isinstance(error, SessionGone) else ""
    return type(error)(told + more, **error.extra)


def no_model(model: str, version: str = "") -> UnknownModel:
    """There is no model of this name, or no such version of it."""
    which = f"'{model}' version {version}" if version else f"'{model}'"
    return UnknownModel(f"Request for unknown model: {which} is not found")


def retired(model: str) -> UnknownModel:
    """The model was unloaded."""
    return UnknownModel(f"Request for unknown model: '{model}' has no available versions")


def not_one_row(model: str) -> Unprocessable:
    """A batch of several rows for one sequence."""
    return Unprocessable(
        f"inference request to model '{model}' must specify batch-size 1 "
        "due to requirements of sequence batcher"
    )


def wrong_type(name: str, told: str, model: str) -> Unprocessable:
    """An input of another data type."""
    return Unprocessable(
        f"inference input '{name}' data-type is '{told}', but model '{model}' expects 'FP32'"
    )


def wrong_shape(name: str, model: str, wanted: Sequence[int], told: Sequence[int]) -> Unprocessable:
    """An input of another shape."""
    return Unprocessable(
        f"unexpected shape for input '{name}' for model '{model}'. "
        f"Expected {_shape(wanted)}, got {_shape(told)}"
    )


def wrong_inputs(names: Sequence[str], wanted: str, model: str) -> Unprocessable:
    """Inputs that are not the one there is."""
    stranger = next((name for name in names if name != wanted), None)
    if stranger is not None:
        return Unprocessable(f"unexpected inference input '{stranger}' for model '{model}'")
    if names:
        return Unprocessable(f"input '{wanted}' already exists in request")
    return Unprocessable(
        f"expected 1 inputs but got 0 inputs for model '{model}'. Got input(s) [], but missing required "
        f"input(s) ['{wanted}']. Please provide all required input(s)."
    )


def wrong_output(name: str, model: str, why: str = "") -> Unprocessable:
    """An output that the model, or this request, does not have."""
    return Unprocessable(f"unexpected inference output '{name}' for model '{model}'{why}")


def too_few_bytes(name: str, model: str, missing: int) -> Unprocessable:
    """The body ends before its binary tensors do."""
    return Unprocessable(
        f"unexpected size for input '{name}', expecting {missing} additional bytes for model '{model}'"
    )


def too_many_bytes(model: str) -> Unprocessable:
    """The body goes on behind its binary tensors."""
    return Unprocessable(f"unexpected additional input data for model '{model}'")


def wrong_bytes(name: str, model: str, wanted: int, told: int) -> Unprocessable:
    """A tensor whose bytes are not those of its shape."""
    return Unprocessable(
        f"input byte size mismatch for input '{name}' for model '{model}'. Expected {wanted}, got {told}"
    )


def unsupported(what: str) -> Unsupported:
    """A part of the protocol that this server does not have."""
    return Unsupported(f"{what} is not supported by this server")


def _shape(numbers: Sequence[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"
