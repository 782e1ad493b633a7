"""`/health`: is the process alive, and may it be sent requests?"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.schemas import Health
from app.engine.engine import Engine

router = APIRouter(tags=["health"])


@router.get("/health/live", response_model=Health, responses={503: {"model": Health}})
async def live(request: Request, response: Response) -> dict[str, Any]:
    """The event loop turns, or there would be no answer, and the engine ticks; if not, start it anew."""
    engine: Engine = request.app.state.engine
    reasons = engine.dead()
    response.status_code = 503 if reasons else 200
    return {"status": "dead" if reasons else "ok", "reasons": reasons}


@router.get("/health/ready", response_model=Health, responses={503: {"model": Health}})
async def ready(request: Request, response: Response) -> dict[str, Any]:
    """Whether to send requests here, and if not, why."""
    engine: Engine = request.app.state.engine
    reasons = engine.unready()
    response.status_code = 503 if reasons else 200
    return {"status": "not ready" if reasons else "ok", "reasons": reasons}


@router.get(
    "/health/balancer", response_model=Health, responses={404: {"model": Health}, 503: {"model": Health}}
)
async def balancer(request: Request, response: Response) -> dict[str, Any]:
    """As /health/ready, but 404 while it drains: HAProxy then sends no more, and cuts no socket off."""
    engine: Engine = request.app.state.engine
    reasons = engine.unready()
    drains = engine.draining and reasons == ["stopping"]
    response.status_code = 404 if drains else 503 if reasons else 200
    return {"status": "draining" if drains else "not ready" if reasons else "ok", "reasons": reasons}
