"""`/metrics`: what happened, for Prometheus. Where there are keys, it takes one of the role monitor."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api.guard import caller
from app.api.problems import documented as problems
from app.errors import Forbidden
from app.exposition import CONTENT_TYPE, Exposition

router = APIRouter(tags=["operations"])


@router.get(
    "/metrics",
    response_class=Response,
    responses=problems(401, 403)
    | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "text format 0.0.4"}},
)
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms of the whole server in Prometheus' text format."""
    if not caller(request).sees_everybody:
        raise Forbidden("this needs a key of the role monitor", role="monitor")
    told: Exposition = request.app.state.exposition
    return Response(told.text(), media_type=CONTENT_TYPE)
