"""`/health`: whether the process is alive, and whether it accepts requests."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.routes import operation_id
from app.api.schemas import Health
from app.engine.engine import Engine

router = APIRouter(tags=["health"], generate_unique_id_function=operation_id)


@router.get("/health/live", response_model=Health, responses={503: {"model": Health}})
async def get_liveness(request: Request, response: Response) -> dict[str, Any]:
    """Whether the engine runs. 503, or no answer at all, means that the process must be restarted."""
    engine: Engine = request.app.state.engine
    reasons = engine.liveness_problems()
    response.status_code = 503 if reasons else 200
    return {"status": "dead" if reasons else "ok", "reasons": reasons}


@router.get("/health/ready", response_model=Health, responses={503: {"model": Health}})
async def get_readiness(request: Request, response: Response) -> dict[str, Any]:
    """Whether the service accepts requests, and if not, why."""
    engine: Engine = request.app.state.engine
    reasons = engine.readiness_problems()
    response.status_code = 503 if reasons else 200
    return {"status": "not ready" if reasons else "ok", "reasons": reasons}


@router.get(
    "/health/balancer", response_model=Health, responses={404: {"model": Health}, 503: {"model": Health}}
)
async def get_balancer_status(request: Request, response: Response) -> dict[str, Any]:
    """As `/health/ready`, but 404 while the server drains: HAProxy then closes no socket."""
    engine: Engine = request.app.state.engine
    reasons = engine.readiness_problems()
    drains = engine.draining and reasons == ["stopping"]
    response.status_code = 404 if drains else 503 if reasons else 200
    return {"status": "draining" if drains else "not ready" if reasons else "ok", "reasons": reasons}
