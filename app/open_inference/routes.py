"""`/v2` over HTTP. Every success is 200; errors have their shape from `api/problems.py`."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from app.api.middleware.guard import caller
from app.errors import CarryoverError, Malformed
from app.open_inference import encode
from app.open_inference.catalog import Catalog
from app.open_inference.decode import decompressed, read
from app.open_inference.run import run
from app.open_inference.statistics import Watch

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

ERROR = {"type": "object", "properties": {"error": {"type": "string"}}}
TENSORS: dict[str, Any] = {
    "application/json": {"schema": {"type": "object"}},
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's `responses` say of these statuses."""
    return {
        status: {"description": "refused", "content": {"application/json": {"schema": ERROR}}}
        for status in statuses
    }


def catalog(request: Request) -> Catalog:
    """The models, as the protocol has them."""
    told: Catalog = request.app.state.catalog
    return told


Models = Annotated[Catalog, Depends(catalog)]


@router.get("", responses=errors(503))
async def server(models: Models) -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return models.server()


@router.get("/health/live", response_class=Response)
async def live() -> Response:
    """The event loop turns."""
    return Response()


@router.get("/health/ready", response_class=Response, responses=errors(503))
async def ready(models: Models) -> Response:
    """Whether to send requests here."""
    models.check_ready()
    return Response()


@router.get("/models/stats", responses=errors(400, 403, 404))
@router.get("/models/{model}/stats", responses=errors(400, 403, 404))
@router.get("/models/{model}/versions/{version}/stats", responses=errors(400, 403, 404))
async def stats(request: Request, models: Models, model: str = "", version: str = "") -> dict[str, Any]:
    """What came of the requests of one model, or of each: of everybody's, so not for every key."""
    caller(request).may("admin")
    return models.told_statistics(model, version)


@router.get("/models/{model}/ready", response_class=Response, responses=errors(400))
@router.get("/models/{model}/versions/{version}/ready", response_class=Response, responses=errors(400))
async def model_ready(models: Models, model: str, version: str = "") -> Response:
    """Whether new sequences of the model are taken."""
    try:
        models.served(model, version)
    except CarryoverError:
        raise Malformed("Model version not ready") from None
    return Response()


@router.get("/models/{model}/config", responses=errors(404))
@router.get("/models/{model}/versions/{version}/config", responses=errors(404))
async def config(models: Models, model: str, version: str = "") -> dict[str, Any]:
    """The model's configuration, its `sequence_batching` with it."""
    return models.config(model, version)


@router.get("/models/{model}", responses=errors(404))
@router.get("/models/{model}/versions/{version}", responses=errors(404))
async def metadata(models: Models, model: str, version: str = "") -> dict[str, Any]:
    """The model's tensors."""
    return models.metadata(model, version)


@router.post(
    "/models/{model}/infer",
    response_class=Response,
    responses={200: {"content": TENSORS}, **errors(400, 404, 501, 503)},
    openapi_extra={"requestBody": {"required": True, "content": TENSORS}},
)
@router.post(
    "/models/{model}/versions/{version}/infer",
    response_class=Response,
    responses={200: {"content": TENSORS}, **errors(400, 404, 501, 503)},
    openapi_extra={"requestBody": {"required": True, "content": TENSORS}},
)
async def infer(request: Request, models: Models, model: str, version: str = "") -> Response:
    """Move a sequence on by a chunk, and answer the prediction of what follows each observation."""
    body = await request.body()
    watch, limits, headers, asking = Watch(), request.app.state.limits, request.headers, caller(request)
    try:
        forecaster = models.spoken(model, version)
        body = decompressed(body, headers.get("content-encoding", ""), asking.most_bytes)
        length = headers.get("inference-header-content-length", "")
        asked = read(body, length, request.query_params, model, forecaster, limits)
        told = await run(asked, asking, limits, watch)
    except CarryoverError:
        models.count(model, watch, failed=True)
        raise
    content, header_length = encode.encode(asked, told)
    content, encoding = encode.compressed(content, headers.get("accept-encoding", ""))
    models.count(model, watch)
    return Response(content, headers=encode.headers(encoding, header_length))


@router.post("/repository/index")
async def index(request: Request, models: Models) -> list[dict[str, Any]]:
    """Every model that is, or was, served."""
    told = _object(await request.body())
    return models.index(told.get("ready") is True)


@router.post("/repository/models/{model}/load", response_class=Response, responses=errors(400, 403, 501))
async def load(request: Request, models: Models, model: str) -> Response:
    """Serve the artifact of this name as it is on disk now."""
    await models.load(caller(request), model, _object(await request.body()).get("parameters"))
    return Response()


@router.post("/repository/models/{model}/unload", response_class=Response, responses=errors(403))
async def unload(request: Request, models: Models, model: str) -> Response:
    """Give no new sequence this model; those under way go on until they end."""
    await models.unload(caller(request), model)
    return Response()


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise Malformed(f"failed to parse the request JSON buffer: {error}") from None
    if not isinstance(told, dict):
        raise Malformed("the request is no JSON object")
    return told
