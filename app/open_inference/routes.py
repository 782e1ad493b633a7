"""`/v2` over HTTP. Every success is 200; errors are `{"error": ...}`."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from app.api.body import read_body
from app.api.middleware.guard import get_caller
from app.codec.limits import check_values
from app.errors import CarryoverError, Malformed
from app.open_inference import encode
from app.open_inference.catalog import Catalog
from app.open_inference.decode import decode_request, decompress
from app.open_inference.run_inference import run_inference
from app.open_inference.statistics import RequestTimer

MAX_VALUES = 10_000  # in the JSON of a request to the repository

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

ERROR = {"type": "object", "properties": {"error": {"type": "string"}}}
TENSORS: dict[str, Any] = {
    "application/json": {"schema": {"type": "object"}},
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of these statuses for the OpenAPI document."""
    return {
        status: {"description": "refused", "content": {"application/json": {"schema": ERROR}}}
        for status in statuses
    }


def catalog(request: Request) -> Catalog:
    """The models that are served."""
    found: Catalog = request.app.state.catalog
    return found


Models = Annotated[Catalog, Depends(catalog)]


@router.get("", responses=errors(503))
async def server(models: Models) -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return models.server_metadata()


@router.get("/health/live", response_class=Response)
async def live() -> Response:
    """Whether the server runs."""
    return Response()


@router.get("/health/ready", response_class=Response, responses=errors(503))
async def ready(models: Models) -> Response:
    """Whether the server accepts requests."""
    models.check_ready()
    return Response()


@router.get("/models/stats", responses=errors(400, 403, 404))
@router.get("/models/{model}/stats", responses=errors(400, 403, 404))
@router.get("/models/{model}/versions/{version}/stats", responses=errors(400, 403, 404))
async def stats(request: Request, models: Models, model: str = "", version: str = "") -> dict[str, Any]:
    """Counts and times of the requests of one model, or of every model; needs the role admin."""
    get_caller(request).require_role("admin")
    return await models.model_statistics(model, version)


@router.get("/models/{model}/ready", response_class=Response, responses=errors(400))
@router.get("/models/{model}/versions/{version}/ready", response_class=Response, responses=errors(400))
async def model_ready(models: Models, model: str, version: str = "") -> Response:
    """Whether new sequences of the model can start."""
    try:
        models.current_forecaster(model, version)
    except CarryoverError:
        raise Malformed("Model version not ready") from None
    return Response()


@router.get("/models/{model}/config", responses=errors(404))
@router.get("/models/{model}/versions/{version}/config", responses=errors(404))
async def config(models: Models, model: str, version: str = "") -> dict[str, Any]:
    """The model's configuration, including `sequence_batching`."""
    return models.config(model, version)


@router.get("/models/{model}", responses=errors(404))
@router.get("/models/{model}/versions/{version}", responses=errors(404))
async def metadata(models: Models, model: str, version: str = "") -> dict[str, Any]:
    """Input and output tensors of the model."""
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
    """Advance a sequence by a chunk; the answer predicts what follows each observation."""
    body = await request.body()
    timer, limits = RequestTimer(), request.app.state.limits
    headers, caller = request.headers, get_caller(request)
    try:
        forecaster = models.running_forecaster(model, version)
        body = decompress(body, headers.get("content-encoding", ""), caller.max_bytes)
        length = headers.get("inference-header-content-length", "")
        inference = decode_request(body, length, request.query_params, model, forecaster, limits)
        answer = await run_inference(inference, caller, limits, timer)
    except CarryoverError:
        models.count(model, timer, failed=True)
        raise
    content, header_length = encode.encode_response(inference, answer)
    content, encoding = encode.compress(content, headers.get("accept-encoding", ""))
    models.count(model, timer)
    return Response(content, headers=encode.headers(encoding, header_length))


@router.post("/repository/index")
async def index(request: Request, models: Models) -> list[dict[str, Any]]:
    """Name, version and state of every model that is, or was, served."""
    return models.index(_json_object(await read_body(request)).get("ready") is True)


@router.post("/repository/models/{model}/load", response_class=Response, responses=errors(400, 403, 501))
async def load(request: Request, models: Models, model: str) -> Response:
    """Serve the artifact of this name as it is on disk now."""
    await models.load(get_caller(request), model, _json_object(await read_body(request)).get("parameters"))
    return Response()


@router.post("/repository/models/{model}/unload", response_class=Response, responses=errors(403))
async def unload(request: Request, models: Models, model: str) -> Response:
    """Start no new sequence on this model; running sequences go on until they end."""
    await models.unload(get_caller(request), model)
    return Response()


def _json_object(body: bytes) -> dict[str, Any]:
    check_values(body, MAX_VALUES)
    try:
        document = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise Malformed(f"failed to parse the request JSON buffer: {error}") from None
    if not isinstance(document, dict):
        raise Malformed("the request is not a JSON object")
    return document
