"""Every error as an RFC 9457 problem: status, body and headers."""

from __future__ import annotations

from typing import Any

from app import errors
from app.errors import TooLarge

PROBLEM_MEDIA_TYPE = "application/problem+json"
STATUS: dict[type[errors.CarryoverError], int] = {
    errors.Malformed: 400,
    errors.Unprocessable: 422,
    errors.UnsupportedType: 415,
    errors.Unsupported: 501,
    errors.TooLarge: 413,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.Misdirected: 421,
    errors.UnknownModel: 404,
    errors.NoFigure: 404,
    errors.BadModel: 422,
    errors.UnknownSession: 404,
    errors.SessionGone: 410,
    errors.SessionExists: 409,
    errors.OtherModel: 409,
    errors.OutOfStep: 409,
    errors.CannotForecast: 422,
    errors.CannotWrite: 422,
    errors.NothingObserved: 409,
    errors.SessionDamaged: 500,
    errors.StepFailed: 500,
    errors.Overloaded: 503,
    errors.OverLimit: 429,
    errors.TooManySessions: 503,
    errors.Stopping: 503,
    errors.StoreFailed: 503,
    errors.WorkerUnavailable: 503,
}
OPEN_INFERENCE_STATUSES = (401, 403, 404, 501, 503)  # any other is a 400 there


def problem(error: errors.CarryoverError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of an error."""
    status = STATUS.get(type(error), 500)
    body = problem_body(errors.slug(type(error)), error.title, status, error.detail) | error.extra
    headers = {}
    if isinstance(error, errors.Unavailable):
        headers["retry-after"] = str(error.retry_after_seconds)
    if isinstance(error, errors.Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="carryover"'
    return status, body, headers


def open_inference_error(error: errors.CarryoverError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of an error under `/v2`.

    Clients of that protocol read the field `error`. The whole problem is in the field `problem`.
    """
    status, body, headers = problem(error)
    if isinstance(error, errors.Unavailable):
        status = 503
    elif status not in OPEN_INFERENCE_STATUSES or isinstance(error, errors.UnknownSession):
        status = 400
    return status, {"error": error.detail, "problem": body}, headers


def problem_body(slug: str, title: str, status: int, detail: str) -> dict[str, Any]:
    """The members that every problem has."""
    return {"type": f"urn:carryover:{slug}", "title": title, "status": status, "detail": detail}


def body_too_large_error(max_bytes: int) -> TooLarge:
    """The error of a body over the limit."""
    return TooLarge(f"a body has at most {max_bytes} bytes", limit=max_bytes)
