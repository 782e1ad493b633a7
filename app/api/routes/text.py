"""`POST /sessions/{id}/generate`: the text that a model writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from app.api.body import MAX_VALUES, openapi_body, parse_body
from app.api.errors import problem_responses
from app.api.middleware.guard import get_caller
from app.api.routes import StrictRoute, operation_id
from app.api.routes.events import EVENT_STREAM
from app.api.routes.sessions import Id
from app.api.text_schemas import CompletionRequest, Generated, GenerateRequest
from app.api.writing import check_text_size, write_all, written
from app.codec.limits import validate_session_id
from app.codec.text import encode_error_event, encode_events, encode_text, parse_event_id
from app.errors import CarryoverError, Unprocessable
from app.jobs.answers import parse_epoch
from app.jobs.jobs import Write
from app.jobs.text import TextAnswer, TextRequest
from models.generation.sampling import Sampling
from models.generation.stopping import Stop

router = APIRouter(tags=["text"], route_class=StrictRoute, generate_unique_id_function=operation_id)

JSON = "application/json"
STREAM_HEADERS = {"x-accel-buffering": "no", "cache-control": "no-store"}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}}


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
    prompt = body.prompt if isinstance(body.prompt, str) else tuple(body.prompt)
    text = TextRequest(prompt, body.steps, read_sampling(body), body.seed, stop)
    epoch = None if body.epoch is None else parse_epoch(body.epoch)
    job = Write(session, text, body.at, epoch, body.model, keep=body.keep, create=body.keep)
    check_text_size(job, limits)
    return job


def read_sampling(body: GenerateRequest | CompletionRequest) -> Sampling:
    """How the tokens are drawn that this body asks for."""
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
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
