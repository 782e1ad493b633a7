"""`POST /observations`: many sessions in one request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.errors import documented as problems
from app.api.middleware.guard import caller
from app.api.schemas import ManyChunks, ManyPredictions
from app.codec import bulk

router = APIRouter(tags=["sessions"])

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_OTHERS: dict[str, Any] = {"application/octet-stream": _BYTES, "application/vnd.apache.arrow.stream": _BYTES}
_BODY = {"application/json": {"schema": ManyChunks.model_json_schema()}, **_OTHERS}


@router.post(
    "/observations",
    response_model=ManyPredictions,
    responses={200: {"content": _OTHERS}, **problems(400, 413, 415, 422, 503)},
    openapi_extra={"requestBody": {"required": True, "content": _BODY}},
)
async def observe_many(request: Request) -> Response:
    """Advance many sessions, each by a chunk. What is wrong with one is told in `errors`, by its index."""
    headers = request.headers
    asked = bulk.read(
        await request.body(),
        headers.get("content-type", ""),
        headers.get("accept", ""),
        request.app.state.bulk_limits,
    )
    outcome = await asked.ask(caller(request))
    for error in outcome.errors.values():
        request.app.state.engine.metrics.refused(error)
    body, content_type = bulk.encode(outcome, asked)
    return Response(body, media_type=content_type)
