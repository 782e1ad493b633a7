"""Every error as RFC 9457 `application/problem+json`, of one shape, with the status of its type.

The only place that knows which error is which status.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app import errors
from app.api.schemas import Problem

log = logging.getLogger("carryover.api")

MEDIA_TYPE = "application/problem+json"

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
    errors.BadModel: 422,
    errors.UnknownSession: 404,
    errors.SessionGone: 410,
    errors.SessionExists: 409,
    errors.OtherModel: 409,
    errors.OutOfStep: 409,
    errors.CannotForecast: 422,
    errors.NothingObserved: 409,
    errors.SessionDamaged: 500,
    errors.StepFailed: 500,
    errors.Overloaded: 503,
    errors.OverLimit: 429,
    errors.TooManySessions: 503,
    errors.Stopping: 503,
    errors.StoreFailed: 503,
}


def problem(error: errors.CarryoverError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of an error."""
    status = STATUS.get(type(error), 500)
    body = _body(errors.slug(type(error)), error.title, status, error.detail) | error.extra
    headers = {}
    if isinstance(error, errors.Unavailable):
        headers["retry-after"] = str(error.retry_after_seconds)
    if isinstance(error, errors.Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="carryover"'
    return status, body, headers


def protocol_error(error: errors.CarryoverError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of an error under `/v2`.

    Its clients know few statuses and one field; what every other route would have answered is beside it.
    """
    status, told, headers = problem(error)
    known = (401, 403, 404, 501, 503)
    if isinstance(error, errors.Unavailable):
        status = 503
    elif status not in known or isinstance(error, errors.UnknownSession):
        status = 400
    return status, {"error": error.detail, "problem": told}, headers


def refusal(error: errors.CarryoverError, path: str) -> Response:
    """An error as the response to a request for this path."""
    if not of_protocol(path):
        return answer(*problem(error))
    return _protocol_answer(*protocol_error(error))


def of_protocol(path: str) -> bool:
    """Whether the path is the Open Inference Protocol's."""
    return path == "/v2" or path.startswith("/v2/")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's `responses` say of these statuses."""
    return {
        status: {
            "model": Problem,
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Answer every error of the app in this shape: ours, FastAPI's, Starlette's, and crashes."""
    app.add_exception_handler(errors.CarryoverError, _carryover)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _hung_up)
    app.add_exception_handler(Exception, _crash)


def answer(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """A problem as a response."""
    return Response(orjson.dumps(body), status, headers, MEDIA_TYPE)


async def _carryover(request: Request, error: Exception) -> Response:
    if not isinstance(error, errors.CarryoverError):
        raise error
    return _refused(request, error)


async def _validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])  # the first says query or path
    return _refused(request, errors.Unprocessable(f"{place}: {first['msg']}", field=place))


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    cause = getattr(error, "error", None)
    if isinstance(cause, errors.CarryoverError):
        return _refused(request, cause)
    phrase = HTTPStatus(error.status_code).phrase
    if of_protocol(request.url.path):
        return _protocol_answer(error.status_code, {"error": phrase}, dict(error.headers or {}))
    body = _body(phrase.lower().replace(" ", "-"), phrase, error.status_code, str(error.detail))
    return answer(error.status_code, body, dict(error.headers or {}))


def _refused(request: Request, error: errors.CarryoverError) -> Response:
    request.app.state.engine.metrics.refused(error)
    return refusal(error, request.url.path)


async def _hung_up(_: Request, __: Exception) -> Response:
    """The client went in the middle of its body: nothing to log as a crash, and nobody to answer."""
    return Response(status_code=400)


async def _crash(request: Request, error: Exception) -> Response:
    log.error("%s %s crashed", request.method, request.url.path, exc_info=error)
    if of_protocol(request.url.path):
        return _protocol_answer(500, {"error": "the server failed; its log says why"}, {})
    return answer(500, _body("internal", "Internal error", 500, "the server failed; its log says why"))


def _protocol_answer(status: int, body: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def _body(slug: str, title: str, status: int, detail: str) -> dict[str, Any]:
    return {"type": f"urn:carryover:{slug}", "title": title, "status": status, "detail": detail}
