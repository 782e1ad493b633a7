"""`POST /observations`: many sessions in one request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app.access.callers import CLIENT
from app.api.body import read_body
from app.api.errors import problem_responses
from app.api.middleware.guard import get_caller
from app.api.routes import StrictRoute, operation_id
from app.api.schemas import BulkChunks, BulkPredictions, schema_of
from app.codec import bulk

router = APIRouter(tags=["sessions"], route_class=StrictRoute, generate_unique_id_function=operation_id)

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_BINARY_TYPES: dict[str, Any] = {
    "application/octet-stream": _BYTES,
    "application/vnd.apache.arrow.stream": _BYTES,
}
_BODY = {"application/json": {"schema": schema_of(BulkChunks)}, **_BINARY_TYPES}


@router.post(
    "/observations",
    response_model=BulkPredictions,
    responses={200: {"content": _BINARY_TYPES}, **problem_responses(400, 413, 415, 422, 503)},
    openapi_extra={"requestBody": {"required": True, "content": _BODY}},
)
async def advance_sessions(request: Request) -> Response:
    """Advance many sessions, each by a chunk. The error of a chunk is in `errors`, by its index."""
    headers = request.headers
    decoder: bulk.BulkDecoder = request.app.state.bulk_decoder
    bulk_request = await decoder.decode_with_pauses(
        await read_body(request), headers.get("content-type", ""), headers.get("accept", "")
    )
    answer = await bulk_request.ask(get_caller(request), CLIENT.get())
    for error in answer.errors.values():
        request.app.state.engine.metrics.record_refusal(error)
    body, content_type = await bulk.encode_with_pauses(answer, bulk_request)
    return Response(body, media_type=content_type)
