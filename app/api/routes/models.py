"""`/models`: what is loaded."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from app.api.errors import documented as problems
from app.api.middleware.guard import caller
from app.api.schemas import Model, ModelList, Reloaded
from app.engine.engine import Engine
from app.jobs.jobs import Adopt
from app.session.slab import Slab

router = APIRouter(tags=["models"])


@router.get("/models", response_model=ModelList)
async def models(request: Request) -> dict[str, Any]:
    """Every model that is loaded."""
    engine: Engine = request.app.state.engine
    counted = caller(request).sees_everybody
    return {"models": [_told(engine, slab, counted) for slab in engine.sessions.current.values()]}


@router.get("/models/{name}", response_model=Model, responses=problems(404))
async def model(request: Request, name: str) -> dict[str, Any]:
    """Shapes, units, metrics and fingerprint of one model."""
    engine: Engine = request.app.state.engine
    return _told(engine, engine.sessions.slab_of(name), caller(request).sees_everybody)


@router.post("/models/{name}/reload", response_model=Reloaded, responses=problems(403, 404, 422, 503))
async def reload(request: Request, name: str) -> dict[str, Any]:
    """Take the artifact as it is on disk now. Sessions under way keep the network they have until reset."""
    engine: Engine = request.app.state.engine
    caller(request).may("admin")
    engine.sessions.slab_of(name)
    forecaster = await asyncio.to_thread(request.app.state.library.reload, name)
    changed = await engine.ask(Adopt(forecaster))
    return {"changed": changed, "model": _told(engine, engine.sessions.slab_of(name), True)}


def _told(engine: Engine, slab: Slab, counted: bool) -> dict[str, Any]:
    forecaster = slab.forecaster
    artifact = forecaster.artifact
    return {
        "name": artifact.name,
        "default": artifact.name == engine.sessions.default_model,
        "fingerprint": artifact.fingerprint,
        "inputs": [{"name": column.name, "unit": column.unit} for column in artifact.inputs],
        "targets": list(artifact.targets),
        "hidden_size": artifact.hidden_size,
        "num_layers": artifact.num_layers,
        "predicts": artifact.predicts,
        "learning": artifact.learning.told() if artifact.learning.on else None,
        "future": list(artifact.future),
        "time_features": list(artifact.time_features),
        "interval_seconds": artifact.interval_seconds,
        "can_forecast": not forecaster.missing,
        "carry_bytes": 4 * forecaster.carry_size,
        "metrics": artifact.metrics,
        "sessions_resident": sum(map(len, engine.sessions.of(slab))) if counted else None,
        "sessions_on_older": sum(map(len, engine.sessions.older(artifact.name))) if counted else None,
    }
