"""`/v1`: for clients of OpenAI's API, the models that write text and `POST /v1/completions`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from app.api.body import MAX_VALUES, openapi_body, parse_body
from app.api.errors import openai_error_responses
from app.api.middleware.guard import get_caller
from app.api.routes import StrictRoute, operation_id
from app.api.routes.events import EVENT_STREAM
from app.api.routes.text import EVENTS, JSON, STREAM_HEADERS, read_sampling
from app.api.text_schemas import (
    MAX_STOPS,
    CompletionAnswer,
    CompletionRequest,
    TextModel,
    TextModelList,
)
from app.api.writing import check_text_size, write_all, written
from app.codec.text import Completion, encode_openai_error, encode_text_model
from app.errors import CarryoverError, UnknownModel, Unprocessable
from app.jobs.jobs import Write
from app.jobs.text import TextAnswer, TextRequest
from models.generation.stopping import Stop

router = APIRouter(tags=["text"], route_class=StrictRoute, generate_unique_id_function=operation_id)

DEFAULT_TOKENS = 16  # of a completion, as OpenAI's API has it


@router.get("/v1/models", response_model=TextModelList)
async def list_text_models(request: Request) -> dict[str, Any]:
    """The models that write text, as clients of OpenAI's API list them."""
    return {"object": "list", "data": await _describe(request, _text_models(request))}


@router.get("/v1/models/{name}", response_model=TextModel, responses=openai_error_responses(404))
async def get_text_model(request: Request, name: str) -> dict[str, Any]:
    """A model that writes text, as clients of OpenAI's API read it."""
    known = _text_models(request)
    if name not in known:
        there_are = f"there are: {', '.join(known)}" if known else "the server has none"
        raise UnknownModel(f"there is no model of text {name!r}; {there_are}", field="model", models=known)
    return (await _describe(request, [name]))[0]


def _text_models(request: Request) -> list[str]:
    current = request.app.state.engine.residents.models.current
    return sorted(name for name, slab in current.items() if slab.forecaster.artifact.text is not None)


async def _describe(request: Request, names: list[str]) -> list[dict[str, Any]]:
    library = request.app.state.library
    written_at = await asyncio.to_thread(lambda: list(map(library.written_at, names)))
    return [encode_text_model(name, seconds) for name, seconds in zip(names, written_at, strict=True)]


@router.post(
    "/v1/completions",
    response_model=CompletionAnswer,
    responses=EVENTS | openai_error_responses(400, 404, 409, 410, 413, 422, 500, 503),
    openapi_extra=openapi_body(CompletionRequest, required=True),
)
async def create_completion(request: Request) -> Response:
    """A completion, as clients of OpenAI's API ask for it. With `user`, the session of that id goes on."""
    limits, caller = request.app.state.limits, get_caller(request)
    body = await parse_body(request, CompletionRequest, MAX_VALUES + limits.observations)
    if not body.prompt and body.user is None:
        raise Unprocessable("send a prompt: only the session of a user goes on without one", field="prompt")
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOPS:
        raise Unprocessable(f"stop has {len(stops)} texts, more than {MAX_STOPS}", field="stop")
    job = _completion_job(body, stops)
    check_text_size(job, limits, "max_tokens")
    completion = Completion(f"cmpl-{secrets.token_hex(12)}", int(time.time()), stops)
    if not body.stream:
        answer, _ = await write_all(caller, job)
        return Response(orjson.dumps(completion.encode(answer)), media_type=JSON)
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    parts = written(caller, job)
    first = await anext(parts)
    content = _chunks(completion, first, parts, with_usage=with_usage)
    return StreamingResponse(content, media_type=EVENT_STREAM, headers=STREAM_HEADERS)


def _completion_job(body: CompletionRequest, stops: list[str]) -> Write:
    seed = secrets.randbits(64) if body.seed is None else body.seed % 2**64
    prompt = body.prompt if isinstance(body.prompt, str) else tuple(body.prompt)
    steps = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    text = TextRequest(prompt, steps, read_sampling(body), seed, Stop(texts=tuple(stops)))
    # Without a session it is written on a copy of one that nobody has.
    session = body.user or f"completion-{secrets.token_hex(16)}"
    return Write(session, text, model=body.model, keep=body.user is not None)


async def _chunks(
    completion: Completion, first: TextAnswer, parts: AsyncIterator[TextAnswer], *, with_usage: bool
) -> AsyncIterator[bytes]:
    try:
        yield completion.encode_chunk(first, with_usage=with_usage)
        async for answer in parts:
            yield completion.encode_chunk(answer, with_usage=with_usage)
    except CarryoverError as error:
        yield encode_openai_error(error)
