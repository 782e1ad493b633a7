"""`POST /sessions/{id}/generate` and `POST /v1/completions`: the text that a model writes."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from app.api.body import MAX_VALUES, openapi_body, parse_body
from app.api.errors import openai_error_responses, problem_responses
from app.api.middleware.guard import get_caller
from app.api.routes import operation_id
from app.api.routes.events import EVENT_STREAM
from app.api.routes.sessions import Id
from app.api.text_schemas import (
    MAX_STOPS,
    CompletionAnswer,
    CompletionRequest,
    Generated,
    GenerateRequest,
)
from app.api.writing import check_text_size, write_all, written
from app.codec.limits import validate_session_id
from app.codec.text import (
    Completion,
    encode_error_event,
    encode_events,
    encode_openai_error,
    encode_text,
    parse_event_id,
)
from app.errors import CarryoverError, Unprocessable
from app.jobs.answers import parse_epoch
from app.jobs.jobs import Write
from app.jobs.text import TextAnswer, TextRequest
from models.generation.sampling import Sampling
from models.generation.stopping import Stop

router = APIRouter(tags=["text"], generate_unique_id_function=operation_id)

JSON = "application/json"
STREAM_HEADERS = {"x-accel-buffering": "no", "cache-control": "no-store"}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}}
DEFAULT_TOKENS = 16  # of a completion, as OpenAI's API has it


@router.post(
    "/sessions/{id}/generate",
    response_model=Generated,
    responses=EVENTS | problem_responses(400, 404, 409, 410, 413, 422, 500, 503),
    openapi_extra=openapi_body(GenerateRequest, required=True),
)
async def generate_text(
    request: Request,
    id: Id,
    last_event_id: Annotated[
        str | None, Header(max_length=100, description="go on behind this event of the same request")
    ] = None,
) -> Response:
    """Write a text: draw a token, observe it, draw the next. The session consumes prompt and text.

    With `accept: text/event-stream`, each token is an event, sent once the session has it. The same request
    with `Last-Event-ID` goes on behind that event, on any server that has the session.
    """
    job = await _read_job(request, validate_session_id(id))
    caller = get_caller(request)
    if EVENT_STREAM not in request.headers.get("accept", ""):
        answer, replayed = await write_all(caller, job)
        return Response(orjson.dumps(encode_text(answer, replayed=replayed)), media_type=JSON)
    behind = -1
    if last_event_id is not None:
        job.epoch, behind = parse_event_id(last_event_id)
        if job.at is None and not job.keep:
            raise Unprocessable("a text on a copy is only gone on with at a position: send `at`", field="at")
        job.behind = behind if job.at is None else None
    parts = written(caller, job)
    first = await anext(parts)  # a refusal is still answered as a problem
    return StreamingResponse(_events(first, parts, behind), media_type=EVENT_STREAM, headers=STREAM_HEADERS)


async def _read_job(request: Request, session: str) -> Write:
    limits = request.app.state.limits
    body = await parse_body(request, GenerateRequest, MAX_VALUES + limits.observations)
    stop = Stop(
        tuple(stop for stop in body.stop if isinstance(stop, int)),
        tuple(stop for stop in body.stop if isinstance(stop, str)),
    )
    sampling = _sampling(body, body.temperature)
    prompt = body.prompt if isinstance(body.prompt, str) else tuple(body.prompt)
    text = TextRequest(prompt, body.steps, sampling, body.seed, stop)
    epoch = None if body.epoch is None else parse_epoch(body.epoch)
    job = Write(session, text, body.at, epoch, body.model, keep=body.keep, create=body.keep)
    check_text_size(job, limits)
    return job


def _sampling(body: GenerateRequest | CompletionRequest, temperature: float | None) -> Sampling:
    return Sampling(
        temperature=1.0 if temperature is None else temperature,
        top_k=body.top_k or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
    )


async def _events(first: TextAnswer, parts: AsyncIterator[TextAnswer], behind: int) -> AsyncIterator[bytes]:
    try:
        answer = first
        yield encode_events(answer, behind)
        async for answer in parts:
            yield encode_events(answer, max(behind, answer.position - answer.written))
    except CarryoverError as error:
        yield encode_error_event(error)


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
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOPS:
        raise Unprocessable(f"stop has {len(stops)} texts, more than {MAX_STOPS}", field="stop")
    job = _completion_job(body, stops)
    check_text_size(job, limits)
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
    sampling, stop = _sampling(body, body.temperature), Stop(texts=tuple(stops))
    text = TextRequest(prompt, steps, sampling, seed, stop)
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
