"""`/sessions`: create, list, inspect, advance, reset, fork, forecast, export, import, delete."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from app.access.callers import Caller
from app.alerts.webhooks import Webhooks
from app.api import csv_rows
from app.api.body import MAX_VALUES, openapi_body, parse_body, read_body
from app.api.errors import problem_responses
from app.api.middleware.guard import get_caller
from app.api.routes import StrictRoute, operation_id
from app.api.schemas import (
    AlertOptions,
    Chunk,
    ForecastAnswer,
    ForecastRequest,
    ForkRequest,
    History,
    NewSession,
    Precondition,
    Predictions,
    Session,
    SessionChanges,
    SessionPage,
)
from app.codec import answers, audio, body_errors, chunks, csv_chunks, list_cursor
from app.codec.csv_chunks import CONTENT_TYPE
from app.codec.limits import (
    MAX_MODEL_NAME,
    MAX_POSITION,
    SESSION_ID,
    SMALL_BODY_BYTES,
    validate_session_id,
)
from app.errors import CarryoverError, Unprocessable
from app.jobs.answers import ChunkAnswer, SessionView, epoch_token, parse_epoch
from app.jobs.jobs import (
    Advance,
    Annotate,
    Create,
    Delete,
    Export,
    Forecast,
    Fork,
    Import,
    Inspect,
    ReadHistory,
    Reset,
)
from app.jobs.options import ChunkOptions
from app.jobs.session_query import ORDERS, SessionQuery
from app.session import state_file
from app.session.names import id_of
from app.session.notes import MAX_LABELS, Alert, parse_alert, parse_label, parse_labels
from models.artifact.served import ServedArtifact

router = APIRouter(tags=["sessions"], route_class=StrictRoute, generate_unique_id_function=operation_id)

# Only for the OpenAPI document: `validate_session_id` checks, so that the error is the same on every route.
_PATTERN = {"pattern": f"^{SESSION_ID.pattern}$", "maxLength": 128}
Id = Annotated[str, Path(description="the session's id", json_schema_extra=_PATTERN)]

JSON = "application/json"
PREFIX = r"^[A-Za-z0-9._:\-]{0,128}$"
STATE = "application/octet-stream"
MAX_DETAILED = 100  # sessions of a page with details, each of which is loaded from the store
DETAILED_AT_ONCE = 16  # of them in one batch, which the chunks of other clients wait for


@router.post(
    "/sessions",
    status_code=201,
    response_model=Session,
    responses=problem_responses(400, 404, 409, 413, 422, 503),
    openapi_extra=openapi_body(NewSession),
)
async def create_session(request: Request, response: Response) -> dict[str, Any]:
    """Create a session. The answer has its `Location`. A first chunk creates its session, too."""
    body = await parse_body(request, NewSession)
    learning = {} if body.learning is None else body.learning.model_dump(exclude_none=True)
    job = Create(
        body.id or _random_id(), body.model, body.ttl_seconds, learning, body.level,
        parse_labels(body.labels), _alert(request, body.alert), body.series,
    )  # fmt: skip
    return _created(response, await get_caller(request).ask(job))


@router.get(
    "/sessions",
    response_model=SessionPage,
    responses=problem_responses(404, 422, 503),
)
async def list_sessions(
    request: Request,
    cursor: Annotated[str, Query(max_length=200, description="`next` of the previous page")] = "",
    after: Annotated[
        str, Query(max_length=200, description="only ids behind this one, in the order of the ids")
    ] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    order: Annotated[
        Literal["name", *ORDERS],  # type: ignore[valid-type]
        Query(
            description="`name`: by id; `last_seen`; `error`: the mean squared error as a multiple of that "
            "of repeating the last observation; `surprise`: that of the last observation"
        ),
    ] = "name",
    descending: Annotated[bool, Query(description="the greatest first")] = False,
    model: Annotated[str | None, Query(description="only sessions of this model")] = None,
    prefix: Annotated[str, Query(pattern=PREFIX, description="only ids with this prefix")] = "",
    label: Annotated[
        list[str],
        Query(
            max_length=MAX_LABELS,
            description="only sessions with this label, such as `site:north`; with several, all of them",
        ),
    ] = [],  # noqa: B006  (FastAPI copies it)
    detail: Annotated[
        bool, Query(description="each as `GET /sessions/{id}` shows it; at most 100 per page")
    ] = False,
) -> Response:
    """List sessions in the order of their ids, or of a value.

    By value, the sessions come first that this server has in memory and that have the value, and then all
    others in the order of their ids. A session that moves while the pages are read may be in two of them, or
    in none. With labels, or behind the sessions that have the value, a page that is not the last may be
    short.
    """
    caller = get_caller(request)
    by_value = order != "name"
    if after and (by_value or cursor):
        raise Unprocessable("after is an id, of a list by id: go on with cursor", field="after")
    if model is not None:
        caller.engine.residents.models.slab_for_model(model)
    labels = tuple(map(parse_label, label))
    query = SessionQuery(model, prefix, labels, order if by_value else None, descending)
    start = list_cursor.decode(cursor or after, by_value=by_value)
    page = await caller.list_sessions(query, start, min(limit, MAX_DETAILED) if detail else limit)
    rows: list[dict[str, Any]] = [{"session": session, "model": name} for session, name in page.found]
    answer = {
        "sessions": await _in_detail(caller, rows) if detail else rows,
        "next": list_cursor.encode(page.next, by_value=by_value),
        "total": await caller.count_sessions(),
    }
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(
        body, media_type=JSON
    )  # FastAPI would validate each row, which takes longer than all else


@router.get("/sessions/{id}", response_model=Session, responses=problem_responses(404, 410, 422, 503))
async def get_session(request: Request, id: Id) -> dict[str, Any]:
    """Model, position, last prediction and times of a session."""
    return answers.encode_session(await get_caller(request).ask(Inspect(validate_session_id(id))))


@router.patch(
    "/sessions/{id}",
    response_model=Session,
    responses=problem_responses(400, 404, 409, 410, 413, 422, 503),
    openapi_extra=openapi_body(SessionChanges, required=True),
)
async def annotate_session(request: Request, id: Id) -> dict[str, Any]:
    """Change a session's labels or alert. It does not move, and its time to live goes on."""
    body = await parse_body(request, SessionChanges)
    job = Annotate(
        validate_session_id(id),
        body.labels or {},
        body.labels is None and "labels" in body.model_fields_set,
        _alert(request, body.alert),
        "alert" in body.model_fields_set,
        body.at,
        _epoch(body.epoch),
    )
    return answers.encode_session(await get_caller(request).ask(job))


@router.delete(
    "/sessions/{id}",
    status_code=204,
    response_class=Response,
    responses=problem_responses(404, 409, 410, 422, 503),
)
async def delete_session(
    request: Request,
    id: Id,
    at: Annotated[int | None, Query(ge=0, le=MAX_POSITION)] = None,
    epoch: str | None = None,
) -> Response:
    """Delete a session. A tombstone with its last position remains for a while."""
    await get_caller(request).ask(Delete(validate_session_id(id), at, _epoch(epoch)))
    return Response(status_code=204)


class ChunkQuery(csv_rows.TableQuery):
    """What the fields of a chunk in JSON say, for a chunk in CSV."""

    at: int | None = Field(None, ge=0, le=MAX_POSITION, description="As in JSON.")
    epoch: str | None = Field(None, description="As in JSON.")
    horizon: int | None = Field(None, ge=0, description="As in JSON.")
    level: float | None = Field(None, gt=0, lt=1, description="As in JSON.")
    score: bool = Field(False, description="As in JSON.")
    model: str | None = Field(None, max_length=MAX_MODEL_NAME, description="As in JSON.")


_CHUNK_BODY = openapi_body(Chunk, required=True)
_CHUNK_BODY["requestBody"]["content"] |= csv_rows.CSV_BODY
_CSV_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}
}


@router.post(
    "/sessions/{id}/observations",
    response_model=Predictions,
    responses=_CSV_ANSWER | problem_responses(400, 404, 409, 410, 413, 415, 422, 500, 503),
    openapi_extra=_CHUNK_BODY,
)
async def advance_session(request: Request, id: Id, query: Annotated[ChunkQuery, Query()]) -> Response:
    """Advance a session by a chunk. The answer has a prediction of what follows each observation.

    The chunk is JSON, or, with `content-type: text/csv`, CSV, whose columns are found by name. The query
    parameters are for CSV. With `accept: text/csv`, the answer is CSV.
    """
    session, flat, artifact = validate_session_id(id), False, None
    if csv_rows.has_csv_body(request):
        artifact = await csv_rows.artifact_of(request, session, query.model)
        job = await _read_csv_chunk(request, session, query, artifact)
    else:
        # Generated clients send all parameters, with their defaults.
        for name in query.model_dump(exclude_defaults=True):
            detail = f"the query is for chunks in CSV: in JSON {name!r} belongs into the body"
            raise Unprocessable(detail, field=name)
        chunk = chunks.decode_chunk(await read_body(request), request.app.state.limits)
        flat = chunk.flat
        job = Advance(
            session,
            chunk.observations,
            chunk.at,
            chunk.epoch,
            chunk.horizon,
            chunk.model,
            options=chunk.options,
        )
    if not csv_rows.wants_csv(request):
        answer = await _ask(request, job, artifact)
        return Response(answers.encode_chunk_answer(answer, flat), media_type=JSON)
    if job.horizon:
        raise Unprocessable("a forecast is answered in JSON: leave out `accept: text/csv`", field="horizon")
    answer = await _ask(request, job, artifact)
    headers = {
        "carryover-epoch": epoch_token(answer.epoch),
        "carryover-replayed": "true" if answer.replayed else "false",
    }
    body = await asyncio.to_thread(csv_chunks.encode_answer, answer)
    return Response(body, media_type=CONTENT_TYPE, headers=headers)


async def _ask(request: Request, job: Advance, artifact: ServedArtifact | None) -> ChunkAnswer:
    """The answer to a chunk; `artifact` is the model whose columns were read, for a chunk in CSV."""
    try:
        answer: ChunkAnswer = await get_caller(request).ask(job)
        return answer
    except Unprocessable as error:
        if artifact is not None:
            csv_chunks.place_in_body(error, artifact)
        raise


async def _read_csv_chunk(
    request: Request, session: str, query: ChunkQuery, artifact: ServedArtifact
) -> Advance:
    limits = request.app.state.limits
    horizon = chunks.validate_horizon(query.horizon or 0, limits)
    rows = await csv_rows.read_csv(request, artifact, query.table_options(), limits)
    # By name, so that a session of another model, which took the id meanwhile, is not fed other columns.
    options = csv_chunks.options_of(rows, artifact, query.level, score=query.score)
    nothing = np.empty((len(rows.values), 0), np.float32)
    return Advance(session, nothing, query.at, _epoch(query.epoch), horizon, query.model, options=options)


_AUDIO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}} for kind in (audio.WAV[0], audio.L16)
        },
    }
}


@router.post(
    "/sessions/{id}/audio",
    response_model=Predictions,
    responses=problem_responses(400, 404, 409, 410, 413, 415, 422, 500, 503),
    openapi_extra=_AUDIO_BODY,
)
async def advance_by_audio(
    request: Request,
    id: Id,
    at: Annotated[int | None, Query(ge=0, le=MAX_POSITION, description="As in a chunk.")] = None,
    epoch: Annotated[str | None, Query(description="As in a chunk.")] = None,
    model: Annotated[str | None, Query(max_length=MAX_MODEL_NAME, description="As in a chunk.")] = None,
) -> Response:
    """Advance a session of a model over samples by a WAV file, or by `audio/l16;rate=16000`.

    `audio/l16` is big-endian, as RFC 2586 says, or has `endianness=little-endian`. Several channels become
    one by their mean. The body may have more samples than another chunk; its bytes are limited.
    """
    session, body = validate_session_id(id), await read_body(request)
    kind = request.headers.get("content-type", "")
    if len(body) <= SMALL_BODY_BYTES:
        heard = audio.decode(body, kind)
    else:
        heard = await asyncio.to_thread(audio.decode, body, kind)
    options = ChunkOptions(rate=heard.rate)
    job = Advance(session, heard.samples[:, None], at, _epoch(epoch), 0, model, options=options)
    return Response(answers.encode_chunk_answer(await get_caller(request).ask(job), True), media_type=JSON)


@router.post(
    "/sessions/{id}/reset",
    response_model=Session,
    responses=problem_responses(400, 404, 409, 410, 413, 422, 503),
    openapi_extra=openapi_body(Precondition),
)
async def reset_session(request: Request, id: Id) -> dict[str, Any]:
    """Set the carry to zero. The position stays, so a retry of a chunk applied before is refused."""
    body = await parse_body(request, Precondition)
    return answers.encode_session(
        await get_caller(request).ask(Reset(validate_session_id(id), body.at, _epoch(body.epoch)))
    )


@router.post(
    "/sessions/{id}/fork",
    status_code=201,
    response_model=Session,
    responses=problem_responses(400, 404, 409, 410, 413, 422, 503),
    openapi_extra=openapi_body(ForkRequest),
)
async def fork_session(request: Request, response: Response, id: Id) -> dict[str, Any]:
    """Create a session with a copy of the carry. The two sessions are independent from then on."""
    body = await parse_body(request, ForkRequest)
    job = Fork(validate_session_id(id), body.id or _random_id(), body.at, _epoch(body.epoch))
    return _created(response, await get_caller(request).ask(job))


@router.get(
    "/sessions/{id}/forecast",
    response_model=ForecastAnswer,
    responses=problem_responses(404, 409, 410, 422, 500, 503),
)
async def forecast_session(
    request: Request,
    id: Id,
    steps: Annotated[int, Query(ge=1, description="length of the forecast")],
    level: Annotated[float | None, Query(gt=0, lt=1, description="add intervals of this level")] = None,
    flat: Annotated[bool, Query(description="answer a model of one feature as a flat list")] = False,
    levels: Annotated[str | None, Query(include_in_schema=False)] = None,
) -> Response:
    """Forecast on a copy of the carry, each prediction fed back in. The session does not move."""
    if levels is not None:
        raise Unprocessable("several levels go into the body of a POST to this address", field="levels")
    return await _roll_out(request, id, ForecastRequest(steps=steps, level=level, flat=flat))


@router.post(
    "/sessions/{id}/forecast",
    response_model=ForecastAnswer,
    responses=problem_responses(400, 404, 409, 410, 413, 422, 500, 503),
    openapi_extra=openapi_body(ForecastRequest, required=True),
)
async def forecast_session_with_future(request: Request, id: str) -> Response:
    """Forecast with inputs that are known ahead, or with several intervals."""
    limits = request.app.state.limits
    max_values = MAX_VALUES + limits.steps * (limits.inputs + 1)  # a row of numbers for each step
    return await _roll_out(request, id, await parse_body(request, ForecastRequest, max_values))


async def _roll_out(request: Request, id: str, body: ForecastRequest) -> Response:
    limits = request.app.state.limits
    if body.steps > limits.steps:
        raise body_errors.too_many_steps_error(body.steps, limits.steps)
    if body.future is not None and len(body.future) != body.steps:
        raise Unprocessable(f"future has {len(body.future)} rows for {body.steps} steps", field="future")
    future = None if body.future is None else chunks.parse_future(body.future)
    job = Forecast(validate_session_id(id), body.steps, body.level, future, tuple(body.levels))
    answer = await get_caller(request).ask(job)
    return Response(answers.encode_chunk_answer(answer, body.flat), media_type=JSON)


@router.get("/sessions/{id}/history", response_model=History, responses=problem_responses(404, 410, 422, 503))
async def get_history(
    request: Request,
    id: Id,
    last: Annotated[
        int | None, Query(ge=1, le=MAX_POSITION, description="only the last so many observations")
    ] = None,
    start: Annotated[
        int | None,
        Query(
            alias="from", ge=0, le=MAX_POSITION, description="only what was observed from this position on"
        ),
    ] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=MAX_POSITION, description="at most so many observations behind `from`")
    ] = None,
) -> Response:
    """What the session observed last, and what it predicted, as far as this server has kept it in memory."""
    if last is not None and (start is not None or limit is not None):
        raise Unprocessable("name either `last`, or `from` and `limit`", field="last")
    first = 0 if start is None and limit is not None else start
    job = ReadHistory(validate_session_id(id), first, last if last is not None else limit)
    history = await get_caller(request).ask(job)
    return Response(orjson.dumps(answers.encode_history(history), option=answers.ARRAYS), media_type=JSON)


@router.get(
    "/sessions/{id}/state",
    response_class=Response,
    responses=problem_responses(404, 410, 422, 503)
    | {
        200: {
            "description": "a safetensors file",
            "content": {STATE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def export_session(request: Request, id: Id) -> Response:
    """Everything that the session remembers, as a safetensors file that `PUT` accepts, here or elsewhere."""
    state = await get_caller(request).ask(Export(validate_session_id(id)))
    headers = {"content-disposition": f'attachment; filename="{id}.safetensors"'}
    return Response(state_file.encode(state), media_type=STATE, headers=headers)


@router.put(
    "/sessions/{id}/state",
    response_model=Session,
    responses=problem_responses(404, 409, 410, 413, 422, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {STATE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def import_session(
    request: Request,
    id: Id,
    at: Annotated[int | None, Query(ge=0, le=MAX_POSITION)] = None,
    epoch: str | None = None,
) -> dict[str, Any]:
    """Create or replace a session with an exported state. It gets a new epoch."""
    state = state_file.decode(await read_body(request))
    job = Import(validate_session_id(id), state, at, _epoch(epoch))
    return answers.encode_session(await get_caller(request).ask(job))


async def _in_detail(caller: Caller, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sessions with their details. A session that has just left, or is damaged, has only its name."""
    for start in range(0, len(rows), DETAILED_AT_ONCE):
        part = rows[start : start + DETAILED_AT_ONCE]
        asked = [caller.ask(Inspect(row["session"])) for row in part]
        for row, view in zip(part, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(view, SessionView):
                row |= answers.encode_session(view)
            elif not isinstance(view, CarryoverError):
                raise view
    return rows


def _alert(request: Request, options: AlertOptions | None) -> Alert | None:
    if options is None:
        return None
    alert = Alert(**options.model_dump())
    webhooks: Webhooks = request.app.state.webhooks
    webhooks.check(alert.webhook, get_caller(request).tenant)
    return parse_alert(alert)


def _created(response: Response, view: Any) -> dict[str, Any]:
    response.headers["location"] = f"/sessions/{id_of(view.session)}"
    return answers.encode_session(view)


def _epoch(text: str | None) -> int | None:
    return None if text is None else parse_epoch(text)


def _random_id() -> str:
    return secrets.token_hex(12)
