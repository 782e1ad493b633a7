"""`/metrics`: metrics for Prometheus. With API keys it needs one of the role `monitor`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api.errors import problem_responses
from app.api.middleware.guard import get_caller
from app.api.prometheus import CONTENT_TYPE, PrometheusExporter
from app.api.routes import operation_id
from app.errors import Forbidden

router = APIRouter(tags=["operations"], generate_unique_id_function=operation_id)


@router.get(
    "/metrics",
    response_class=Response,
    responses=problem_responses(401, 403)
    | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "text format 0.0.4"}},
)
async def get_metrics(request: Request) -> Response:
    """Counters, gauges and histograms of the whole server in Prometheus' text format."""
    if not get_caller(request).sees_all_tenants:
        raise Forbidden("this needs a key of the role monitor", role="monitor")
    exporter: PrometheusExporter = request.app.state.exporter
    return Response(await exporter.render(), media_type=CONTENT_TYPE)
