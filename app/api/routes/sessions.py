"""`/sessions`: create, list, look, advance, reset, fork, forecast, delete."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from app.access.callers import Caller
from app.api.errors import documented as problems
from app.api.middleware.body_limit import documented as body
from app.api.middleware.body_limit import read
from app.api.middleware.guard import caller
from app.api.schemas import (
    Chunk,
    ForecastAnswer,
    ForkInto,
    InStep,
    NewSession,
    Predictions,
    RollOut,
    Session,
    SessionPage,
)
from app.codec import chunks
from app.errors import CarryoverError, Unprocessable
from app.jobs.answers import SessionView, epoch_of
from app.jobs.jobs import Advance, Create, Delete, Export, Forecast, Fork, Import, Inspect, Reset
from app.session import state_file
from app.session.names import shown

router = APIRouter(tags=["sessions"])

# Told in the document, and checked by `wire.session_id`: one refusal, whatever the way.
_PATTERN = {"pattern": f"^{chunks.SESSION_ID.pattern}$", "maxLength": 128}
Id = Annotated[str, Path(description="the session's id", json_schema_extra=_PATTERN)]

JSON = "application/json"
PREFIX = r"^[A-Za-z0-9._:\-]{0,128}$"
STATE = "application/octet-stream"
MOST_DETAILED = 100  # sessions of one page that are looked into: those at rest come in for it


@router.post(
    "/sessions",
    status_code=201,
    response_model=Session,
    responses=problems(400, 404, 409, 413, 422, 503),
    openapi_extra=body(NewSession),
)
async def create(request: Request, response: Response) -> dict[str, Any]:
    """Create a session. Its `Location` is answered; a first chunk creates one, too."""
    told = await read(request, NewSession)
    learning = {} if told.learning is None else told.learning.model_dump(exclude_none=True)
    job = Create(told.id or _random_id(), told.model, told.ttl_seconds, learning, told.level)
    return _located(response, await caller(request).ask(job))


@router.get(
    "/sessions",
    response_model=SessionPage,
    response_model_exclude_unset=True,
    responses=problems(404, 422, 503),
)
async def page(
    request: Request,
    after: Annotated[str, Query(max_length=200, description="`next` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    model: Annotated[str | None, Query(description="only sessions of this model")] = None,
    prefix: Annotated[str, Query(pattern=PREFIX, description="only ids that begin so")] = "",
    detail: Annotated[bool, Query(description="each as `GET /sessions/{id}` shows it, 100 a page")] = False,
) -> dict[str, Any]:
    """List sessions in the order of their ids."""
    asking = caller(request)
    if model is not None:
        asking.engine.sessions.slab_of(model)
    limit = min(limit, MOST_DETAILED) if detail else limit
    names = await asking.names(after, limit, model, prefix)
    rows: list[dict[str, Any]] = [{"session": session, "model": name} for session, name in names]
    return {
        "sessions": await _in_detail(asking, rows) if detail else rows,
        "next": names[-1][0] if len(names) == limit else None,
        "total": len(asking),
    }


@router.get("/sessions/{id}", response_model=Session, responses=problems(404, 410, 422, 503))
async def inspect(request: Request, id: Id) -> dict[str, Any]:
    """Model, position, last prediction and times of a session."""
    return chunks.viewed(await caller(request).ask(Inspect(chunks.session_id(id))))


@router.delete(
    "/sessions/{id}", status_code=204, response_class=Response, responses=problems(404, 409, 410, 422, 503)
)
async def delete(
    request: Request,
    id: Id,
    at: Annotated[int | None, Query(ge=0, le=chunks.FURTHEST)] = None,
    epoch: str | None = None,
) -> Response:
    """Forget a session; what remains is a tombstone with its last position."""
    await caller(request).ask(Delete(chunks.session_id(id), at, _epoch(epoch)))
    return Response(status_code=204)


@router.post(
    "/sessions/{id}/observations",
    response_model=Predictions,
    responses=problems(400, 404, 409, 410, 413, 422, 500, 503),
    openapi_extra=body(Chunk, required=True),
)
async def observe(request: Request, id: Id) -> Response:
    """Advance a session by a chunk, and answer the prediction of what follows each observation."""
    told = chunks.chunk(await request.body(), request.app.state.limits)
    job = Advance(
        chunks.session_id(id), told.observations, told.at, told.epoch, told.horizon, told.model,
        extras=told.extras,
    )  # fmt: skip
    return Response(chunks.advanced(await caller(request).ask(job), told.flat), media_type=JSON)


@router.post(
    "/sessions/{id}/reset",
    response_model=Session,
    responses=problems(400, 404, 409, 410, 413, 422, 503),
    openapi_extra=body(InStep),
)
async def reset(request: Request, id: Id) -> dict[str, Any]:
    """Zero the carry. The position stays, so that a chunk delayed from before can never be applied after."""
    told = await read(request, InStep)
    return chunks.viewed(await caller(request).ask(Reset(chunks.session_id(id), told.at, _epoch(told.epoch))))


@router.post(
    "/sessions/{id}/fork",
    status_code=201,
    response_model=Session,
    responses=problems(400, 404, 409, 410, 413, 422, 503),
    openapi_extra=body(ForkInto),
)
async def fork(request: Request, response: Response, id: Id) -> dict[str, Any]:
    """A new session with a copy of the carry; from here on the two go their own ways."""
    told = await read(request, ForkInto)
    job = Fork(chunks.session_id(id), told.id or _random_id(), told.at, _epoch(told.epoch))
    return _located(response, await caller(request).ask(job))


@router.get(
    "/sessions/{id}/forecast",
    response_model=ForecastAnswer,
    responses=problems(404, 409, 410, 422, 500, 503),
)
async def forecast(
    request: Request,
    id: Id,
    steps: Annotated[int, Query(ge=1, description="how far to roll out")],
    level: Annotated[float | None, Query(gt=0, lt=1, description="add intervals of this level")] = None,
    flat: Annotated[bool, Query(description="answer a model of one feature as a flat list")] = False,
) -> Response:
    """Roll out on a copy of the carry, feeding predictions back in; the session does not move."""
    return await _roll_out(request, id, RollOut(steps=steps, level=level, flat=flat))


@router.post(
    "/sessions/{id}/forecast",
    response_model=ForecastAnswer,
    responses=problems(400, 404, 409, 410, 413, 422, 500, 503),
    openapi_extra=body(RollOut, required=True),
)
async def forecast_with(request: Request, id: str) -> Response:
    """The same, told what is known ahead."""
    return await _roll_out(request, id, await read(request, RollOut))


async def _roll_out(request: Request, id: str, told: RollOut) -> Response:
    limits = request.app.state.limits
    if told.steps > limits.steps:
        raise chunks.too_far(told.steps, limits.steps)
    if told.future is not None and len(told.future) != told.steps:
        raise Unprocessable(f"future has {len(told.future)} rows for {told.steps} steps", field="future")
    future = None if told.future is None else chunks.future_of(told.future)
    answer = await caller(request).ask(Forecast(chunks.session_id(id), told.steps, told.level, future))
    return Response(chunks.advanced(answer, told.flat), media_type=JSON)


@router.get(
    "/sessions/{id}/state",
    response_class=Response,
    responses=problems(404, 410, 422, 503)
    | {
        200: {
            "description": "a safetensors file",
            "content": {STATE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def export(request: Request, id: Id) -> Response:
    """All that the session remembers, as one safetensors file that `PUT` takes, here or elsewhere."""
    state = await caller(request).ask(Export(chunks.session_id(id)))
    name = {"content-disposition": f'attachment; filename="{id}.safetensors"'}
    return Response(state_file.encode(state), media_type=STATE, headers=name)


@router.put(
    "/sessions/{id}/state",
    response_model=Session,
    responses=problems(404, 409, 410, 413, 422, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {STATE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def import_(
    request: Request,
    id: Id,
    at: Annotated[int | None, Query(ge=0, le=chunks.FURTHEST)] = None,
    epoch: str | None = None,
) -> dict[str, Any]:
    """Put a session in an exported state, whether it exists or not; a new epoch is drawn."""
    state = state_file.decode(await request.body())
    job = Import(chunks.session_id(id), state, at, _epoch(epoch))
    return chunks.viewed(await caller(request).ask(job))


async def _in_detail(asking: Caller, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every session as it stands; of one that has just gone, or is damaged, no more than its name."""
    views = await asyncio.gather(
        *(asking.ask(Inspect(row["session"])) for row in rows), return_exceptions=True
    )
    for row, view in zip(rows, views, strict=True):
        if isinstance(view, SessionView):
            row |= chunks.viewed(view)
        elif not isinstance(view, CarryoverError):
            raise view
    return rows


def _located(response: Response, view: Any) -> dict[str, Any]:
    response.headers["location"] = f"/sessions/{shown(view.session)}"
    return chunks.viewed(view)


def _epoch(text: str | None) -> int | None:
    return None if text is None else epoch_of(text)


def _random_id() -> str:
    return secrets.token_hex(12)
