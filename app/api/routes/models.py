"""`/models`: the models that are loaded."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response

from app.api import csv_rows
from app.api.errors import problem_responses
from app.api.middleware.guard import get_caller
from app.api.routes import StrictRoute, operation_id
from app.api.schemas import Model, ModelList, ModelRows, ReloadResult
from app.engine.engine import Engine
from app.errors import NoFigure
from app.jobs.jobs import Adopt
from app.model_library import ModelLibrary
from app.session.slab import Slab
from models.artifact.served import ServedArtifact
from models.nets.signature import Port, State

MAX_ROWS = 200_000  # of a body that is only read

router = APIRouter(tags=["models"], route_class=StrictRoute, generate_unique_id_function=operation_id)

PNG = "image/png"


@router.get("/models", response_model=ModelList)
async def list_models(request: Request) -> dict[str, Any]:
    """All models that are loaded."""
    engine: Engine = request.app.state.engine
    counts = await _session_counts(request)
    return {"models": [_model(request, slab, counts) for slab in engine.residents.models.current.values()]}


@router.get("/models/{name}", response_model=Model, responses=problem_responses(404))
async def get_model(request: Request, name: str) -> dict[str, Any]:
    """Shapes, units, metrics and fingerprint of a model."""
    engine: Engine = request.app.state.engine
    slab = engine.residents.models.slab_for_model(name)
    return _model(request, slab, await _session_counts(request))


@router.get(
    "/models/{name}/figure",
    response_class=Response,
    responses=problem_responses(404)
    | {200: {"description": "PNG", "content": {PNG: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def get_model_figure(request: Request, name: str) -> Response:
    """The picture of a model's training, if its folder has `figure.png`."""
    engine: Engine = request.app.state.engine
    engine.residents.models.slab_for_model(name)
    picture = await asyncio.to_thread(request.app.state.library.figure, name)
    if picture is None:
        raise NoFigure(f"model {name!r} has no figure of its training")
    return Response(picture, media_type=PNG, headers={"x-content-type-options": "nosniff"})


@router.post(
    "/models/{name}/rows",
    response_model=ModelRows,
    responses=problem_responses(400, 404, 413, 415, 422),
    openapi_extra={"requestBody": {"required": True, "content": csv_rows.CSV_BODY}},
)
async def read_rows(request: Request, name: str, query: Annotated[csv_rows.TableQuery, Query()]) -> Response:
    """Read CSV as a session of this model would, and answer its rows. No session advances."""
    artifact = request.app.state.engine.residents.models.slab_for_model(name).forecaster.artifact
    limits = replace(request.app.state.limits, observations=MAX_ROWS)
    rows = await csv_rows.read_csv(request, artifact, query.table_options(), limits)
    document = {
        "columns": rows.columns,
        "ignored": rows.ignored,
        "notes": rows.notes,
        "observations": rows.values,
        "timestamps": rows.seconds,
    }
    body = await asyncio.to_thread(orjson.dumps, document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


@router.post(
    "/models/{name}/reload", response_model=ReloadResult, responses=problem_responses(403, 404, 422, 503)
)
async def reload_model(request: Request, name: str) -> dict[str, Any]:
    """Load the artifact from disk again. Existing sessions keep their network until they are reset."""
    engine: Engine = request.app.state.engine
    get_caller(request).require_role("admin")
    engine.residents.models.slab_for_model(name)
    library: ModelLibrary = request.app.state.library
    async with library.turn:
        forecaster = await asyncio.to_thread(library.reload, name)
        changed = await engine.ask(Adopt(forecaster))
    slab = engine.residents.models.slab_for_model(name)
    return {"changed": changed, "model": _model(request, slab, await _session_counts(request))}


async def _session_counts(request: Request) -> dict[str, tuple[int, int]] | None:
    """By model, sessions on its network and on older ones; None for a caller who may not see them."""
    engine: Engine = request.app.state.engine
    if not get_caller(request).sees_all_tenants:
        return None
    return await engine.session_counts_by_model()


def _model(request: Request, slab: Slab, counts: dict[str, tuple[int, int]] | None) -> dict[str, Any]:
    engine: Engine = request.app.state.engine
    forecaster = slab.forecaster
    artifact = forecaster.artifact
    resident, older = (None, None) if counts is None else counts.get(artifact.name, (0, 0))
    return {
        "name": artifact.name,
        "default": artifact.name == engine.residents.models.default_model,
        "fingerprint": artifact.fingerprint,
        "inputs": _inputs(artifact),
        "outputs": [_port(port) | {"kind": port.kind} for port in artifact.listed_outputs],
        "states": [_state(state) for state in artifact.states],
        "targets": list(artifact.targets),
        "hidden_size": artifact.hidden_size,
        "num_layers": artifact.num_layers,
        "architecture": artifact.architecture.as_dict() if artifact.architecture else None,
        "predicts": artifact.predicts,
        "learning": artifact.learning.as_dict() if artifact.learning.enabled else None,
        "future": list(artifact.future),
        "series": None if artifact.fleet is None else len(artifact.fleet.names),
        "time_features": list(artifact.time_features),
        "interval_seconds": artifact.interval_seconds,
        "can_forecast": not forecaster.missing,
        "feedback": artifact.fed_back,
        "vocabulary": None if artifact.text is None else len(artifact.text.vocabulary),
        "sample_prompt": None if artifact.text is None else artifact.text.vocabulary.sample,
        "carry_bytes": forecaster.carry_nbytes,
        "unit": None if forecaster.samples is None else "sample",
        "samples": None if forecaster.samples is None else forecaster.samples.describe(),
        "metrics": artifact.metrics,
        "has_figure": request.app.state.library.has_figure(artifact.name),
        "sessions_resident": resident,
        "sessions_on_older": older,
    }


def _inputs(artifact: ServedArtifact) -> list[dict[str, Any]]:
    ports = [_port(port) for port in artifact.listed_inputs]
    if artifact.scaling is None or any(port["range"] is not None for port in ports):  # a token is not scaled
        return [port | {"mean": None, "std": None} for port in ports]
    usual = zip(artifact.scaling.mean.tolist(), artifact.scaling.std.tolist(), strict=True)
    return [port | {"mean": mean, "std": std} for port, (mean, std) in zip(ports, usual, strict=True)]


def _state(state: State) -> dict[str, Any]:
    return {
        "input": state.tensor,
        "output": state.next_tensor,
        "dtype": state.dtype,
        "shape": list(state.shape),
    }


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "unit": port.unit,
        "dtype": port.dtype,
        "shape": list(port.shape),
        "columns": None if port.columns is None else list(port.columns),
        "range": None if port.range is None else list(port.range),
    }
