"""`/metrics`: what happened, for Prometheus. Where there are keys, it takes one of the role monitor."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api.errors import documented as problems
from app.api.middleware.guard import caller
from app.api.prometheus import CONTENT_TYPE, Exposition
from app.errors import Forbidden

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
