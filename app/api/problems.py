"""Every error as RFC 9457 `application/problem+json`, of one shape, with the status of its type.

The only place that knows which error is which status.
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app import errors
from app.shapes import Problem

log = logging.getLogger("carryover.api")

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[errors.CarryoverError], int] = {
    errors.Malformed: 400,
    errors.Unprocessable: 422,
    errors.UnsupportedType: 415,
    errors.TooLarge: 413,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
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
    body = _body(_slug(type(error).__name__), error.title, status, error.detail) | error.extra
    headers = {}
    if isinstance(error, errors.Unavailable):
        headers["retry-after"] = str(error.retry_after_seconds)
    if isinstance(error, errors.Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="carryover"'
    return status, body, headers


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


async def _carryover(_: Request, error: Exception) -> Response:
    if not isinstance(error, errors.CarryoverError):
        raise error
    return answer(*problem(error))


async def _validation(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])  # the first says query or path
    return answer(*problem(errors.Unprocessable(f"{place}: {first['msg']}", field=place)))


async def _http(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    cause = getattr(error, "error", None)
    if isinstance(cause, errors.CarryoverError):
        return answer(*problem(cause))
    phrase = HTTPStatus(error.status_code).phrase
    body = _body(_slug(phrase.title().replace(" ", "")), phrase, error.status_code, str(error.detail))
    return answer(error.status_code, body, dict(error.headers or {}))


async def _hung_up(_: Request, __: Exception) -> Response:
    """The client went in the middle of its body: nothing to log as a crash, and nobody to answer."""
    return Response(status_code=400)


async def _crash(request: Request, error: Exception) -> Response:
    log.error("%s %s crashed", request.method, request.url.path, exc_info=error)
    return answer(500, _body("internal", "Internal error", 500, "the server failed; its log says why"))


def _body(slug: str, title: str, status: int, detail: str) -> dict[str, Any]:
    return {"type": f"urn:carryover:{slug}", "title": title, "status": status, "detail": detail}


def _slug(name: str) -> str:
    """`OutOfStep` -> `out-of-step`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
