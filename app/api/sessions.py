"""`/sessions`: create, list, look, advance, reset, fork, forecast, delete."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app import statefile, wire
from app.answers import epoch_of
from app.api.body import documented as body
from app.api.body import read
from app.api.guard import caller
from app.api.problems import documented as problems
from app.jobs import Advance, Create, Delete, Export, Forecast, Fork, Import, Inspect, Reset
from app.names import shown
from app.shapes import (
    Chunk,
    ForecastAnswer,
    ForkInto,
    InStep,
    NewSession,
    Predictions,
    Session,
    SessionPage,
)

router = APIRouter(tags=["sessions"])

JSON = "application/json"
STATE = "application/octet-stream"


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
    job = Create(told.id or _random_id(), told.model, told.ttl_seconds)
    return _located(response, await caller(request).ask(job))


@router.get("/sessions", response_model=SessionPage, responses=problems(404, 422, 503))
async def page(
    request: Request,
    after: Annotated[str, Query(max_length=200, description="`next` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    model: Annotated[str | None, Query(description="only sessions of this model")] = None,
) -> dict[str, Any]:
    """List sessions in the order of their ids."""
    asking = caller(request)
    if model is not None:
        asking.engine.sessions.slab_of(model)
    names = await asking.names(after, limit, model)
    return {
        "sessions": [{"session": session, "model": name} for session, name in names],
        "next": names[-1][0] if len(names) == limit else None,
        "total": len(asking),
    }


@router.get("/sessions/{id}", response_model=Session, responses=problems(404, 410, 422, 503))
async def inspect(request: Request, id: str) -> dict[str, Any]:
    """Model, position, last prediction and times of a session."""
    return wire.viewed(await caller(request).ask(Inspect(wire.session_id(id))))


@router.delete(
    "/sessions/{id}", status_code=204, response_class=Response, responses=problems(404, 409, 410, 422, 503)
)
async def delete(
    request: Request,
    id: str,
    at: Annotated[int | None, Query(ge=0, le=wire.FURTHEST)] = None,
    epoch: str | None = None,
) -> Response:
    """Forget a session; what remains is a tombstone with its last position."""
    await caller(request).ask(Delete(wire.session_id(id), at, _epoch(epoch)))
    return Response(status_code=204)


@router.post(
    "/sessions/{id}/observations",
    response_model=Predictions,
    responses=problems(400, 404, 409, 410, 413, 422, 500, 503),
    openapi_extra=body(Chunk, required=True),
)
async def observe(request: Request, id: str) -> Response:
    """Advance a session by a chunk, and answer the prediction of what follows each observation."""
    told = wire.chunk(await request.body(), request.app.state.limits)
    job = Advance(wire.session_id(id), told.observations, told.at, told.epoch, told.horizon, told.model)
    return Response(wire.advanced(await caller(request).ask(job), told.flat), media_type=JSON)


@router.post(
    "/sessions/{id}/reset",
    response_model=Session,
    responses=problems(400, 404, 409, 410, 413, 422, 503),
    openapi_extra=body(InStep),
)
async def reset(request: Request, id: str) -> dict[str, Any]:
    """Zero the carry. The position stays, so that a chunk delayed from before can never be applied after."""
    told = await read(request, InStep)
    return wire.viewed(await caller(request).ask(Reset(wire.session_id(id), told.at, _epoch(told.epoch))))


@router.post(
    "/sessions/{id}/fork",
    status_code=201,
    response_model=Session,
    responses=problems(400, 404, 409, 410, 413, 422, 503),
    openapi_extra=body(ForkInto),
)
async def fork(request: Request, response: Response, id: str) -> dict[str, Any]:
    """A new session with a copy of the carry; from here on the two go their own ways."""
    told = await read(request, ForkInto)
    job = Fork(wire.session_id(id), told.id or _random_id(), told.at, _epoch(told.epoch))
    return _located(response, await caller(request).ask(job))


@router.get(
    "/sessions/{id}/forecast",
    response_model=ForecastAnswer,
    responses=problems(404, 409, 410, 422, 500, 503),
)
async def forecast(
    request: Request,
    id: str,
    steps: Annotated[int, Query(ge=1, description="how far to roll out")],
    flat: Annotated[bool, Query(description="answer a model of one feature as a flat list")] = False,
) -> Response:
    """Roll out on a copy of the carry, feeding predictions back in; the session does not move."""
    most = request.app.state.limits.steps
    if steps > most:
        raise wire.too_far(steps, most)
    answer = await caller(request).ask(Forecast(wire.session_id(id), steps))
    return Response(wire.advanced(answer, flat), media_type=JSON)


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
async def export(request: Request, id: str) -> Response:
    """All that the session remembers, as one safetensors file that `PUT` takes, here or elsewhere."""
    state = await caller(request).ask(Export(wire.session_id(id)))
    name = {"content-disposition": f'attachment; filename="{id}.safetensors"'}
    return Response(statefile.encode(state), media_type=STATE, headers=name)


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
    id: str,
    at: Annotated[int | None, Query(ge=0, le=wire.FURTHEST)] = None,
    epoch: str | None = None,
) -> dict[str, Any]:
    """Put a session in an exported state, whether it exists or not; a new epoch is drawn."""
    state = statefile.decode(await request.body())
    job = Import(wire.session_id(id), state, at, _epoch(epoch))
    return wire.viewed(await caller(request).ask(job))


def _located(response: Response, view: Any) -> dict[str, Any]:
    response.headers["location"] = f"/sessions/{shown(view.session)}"
    return wire.viewed(view)


def _epoch(text: str | None) -> int | None:
    return None if text is None else epoch_of(text)


def _random_id() -> str:
    return secrets.token_hex(12)
