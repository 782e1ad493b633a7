"""Every error of the app as a response in RFC 9457 `application/problem+json`."""

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
from app.api.schemas import InferenceError, Problem, schema_of
from app.api.text_schemas import OpenAiError
from app.codec.problems import PROBLEM_MEDIA_TYPE, open_inference_error, problem, problem_body
from app.codec.text import openai_body, openai_error

log = logging.getLogger("carryover.api")

JSON = "application/json"


def error_response(error: errors.CarryoverError, path: str) -> Response:
    """An error as the response to a request for this path."""
    if is_openai_path(path):
        return problem_response(*openai_error(error), JSON)
    if not is_open_inference_path(path):
        return problem_response(*problem(error))
    return _open_inference_response(*open_inference_error(error))


def is_open_inference_path(path: str) -> bool:
    """Whether the path is the Open Inference Protocol's."""
    return path == "/v2" or path.startswith("/v2/")


def is_openai_path(path: str) -> bool:
    """Whether the path is for OpenAI's clients, which read errors in a form of their own."""
    return path.startswith("/v1/")


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer these statuses."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_MEDIA_TYPE: {"schema": schema_of(Problem)}},
        }
        for status in statuses
    }


def inference_error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route of the Open Inference Protocol that may answer these statuses."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": schema_of(InferenceError)}},
        }
        for status in statuses
    }


def openai_error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAI's clients that may answer these statuses."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {JSON: {"schema": schema_of(OpenAiError)}},
        }
        for status in statuses
    }


def add_exception_handlers(app: FastAPI) -> None:
    """Answer every error as a problem: our own, FastAPI's, Starlette's, and crashes."""
    app.add_exception_handler(errors.CarryoverError, _carryover)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, _crash)


def problem_response(
    status: int,
    body: dict[str, Any],
    headers: dict[str, str] | None = None,
    media_type: str = PROBLEM_MEDIA_TYPE,
) -> Response:
    """A problem as a response."""
    return Response(orjson.dumps(body), status, headers, media_type)


async def _carryover(request: Request, error: Exception) -> Response:
    if not isinstance(error, errors.CarryoverError):
        raise error
    return _refusal(request, error)


async def _validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])  # the first part is "query" or "path"
    return _refusal(request, errors.Unprocessable(f"{field}: {first['msg']}", field=field))


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    cause = getattr(error, "error", None)
    if isinstance(cause, errors.CarryoverError):
        return _refusal(request, cause)
    phrase = HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    if is_open_inference_path(request.url.path):
        return _open_inference_response(error.status_code, {"error": phrase}, headers)
    body = problem_body(phrase.lower().replace(" ", "-"), phrase, error.status_code, str(error.detail))
    if is_openai_path(request.url.path):
        return problem_response(error.status_code, openai_body(body), headers, JSON)
    return problem_response(error.status_code, body, headers)


def _refusal(request: Request, error: errors.CarryoverError) -> Response:
    request.app.state.engine.metrics.record_refusal(error)
    return error_response(error, request.url.path)


async def _disconnected(_: Request, __: Exception) -> Response:
    """The client left in the middle of its body. This is not a crash, and nobody reads the answer."""
    return Response(status_code=400)


async def _crash(request: Request, error: Exception) -> Response:
    route = getattr(request.scope.get("route"), "path", "a request")  # the path itself names a session
    log.error("%s %s crashed", request.method, route, exc_info=error)
    if is_open_inference_path(request.url.path):
        return _open_inference_response(500, {"error": "the server failed; see its log"}, {})
    body = problem_body("internal", "Internal error", 500, "the server failed; see its log")
    if is_openai_path(request.url.path):
        return problem_response(500, openai_body(body), media_type=JSON)
    return problem_response(500, body)


def _open_inference_response(status: int, body: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")
