"""`/v2` over HTTP. Every success is 200; errors are `{"error": ...}`."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from app.api.body import read_body
from app.api.errors import inference_error_responses as refusals
from app.api.middleware.guard import get_caller
from app.api.schemas import InferenceRequest, InferenceResponse, schema_of
from app.codec.limits import check_values
from app.errors import CarryoverError, Malformed
from app.open_inference import encode
from app.open_inference.catalog import Catalog
from app.open_inference.decode import decode_request, decompress
from app.open_inference.run_inference import run_inference
from app.open_inference.statistics import RequestTimer

MAX_VALUES = 10_000  # in the JSON of a request to the repository

router = APIRouter(prefix="/v2", tags=["open-inference"])

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_REQUEST = {
    "parameters": [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "description": "length of the JSON, if bytes of tensors follow it",
            "required": False,
            "schema": {"type": "integer", "minimum": 0},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": schema_of(InferenceRequest)}, **_BYTES},
    },
}
_RESPONSE: dict[str, Any] = {
    "description": "JSON, or JSON and the bytes of tensors if the request asks for them",
    "content": {"application/json": {"schema": schema_of(InferenceResponse)}, **_BYTES},
}
_OBJECT = {"application/json": {"schema": {"type": "object"}, "example": {}}}
_OPTIONS = {"requestBody": {"content": _OBJECT}}


def catalog(request: Request) -> Catalog:
    """The models that are served."""
    found: Catalog = request.app.state.catalog
    return found


Models = Annotated[Catalog, Depends(catalog)]


@router.get("", operation_id="v2_server_metadata", responses=refusals(503))
async def server(models: Models) -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return models.server_metadata()


@router.get("/health/live", operation_id="v2_server_live", response_class=Response)
async def live() -> Response:
    """Whether the server runs."""
    return Response()


@router.get(
    "/health/ready",
    operation_id="v2_server_ready",
    response_class=Response,
    responses=refusals(503),
)
async def ready(models: Models) -> Response:
    """Whether the server accepts requests."""
    models.check_ready()
    return Response()


@router.get("/models/stats", operation_id="v2_statistics", responses=refusals(400, 403, 404))
@router.get(
    "/models/{model}/stats",
    operation_id="v2_model_statistics",
    responses=refusals(400, 403, 404),
)
@router.get(
    "/models/{model}/versions/{version}/stats",
    operation_id="v2_model_version_statistics",
    responses=refusals(400, 403, 404),
)
async def stats(request: Request, models: Models, model: str = "", version: str = "") -> dict[str, Any]:
    """Counts and times of the requests of one model, or of every model; needs the role admin."""
    get_caller(request).require_role("admin")
    return await models.model_statistics(model, version)


@router.get(
    "/models/{model}/ready",
    operation_id="v2_model_ready",
    response_class=Response,
    responses=refusals(400),
)
@router.get(
    "/models/{model}/versions/{version}/ready",
    operation_id="v2_model_version_ready",
    response_class=Response,
    responses=refusals(400),
)
async def model_ready(models: Models, model: str, version: str = "") -> Response:
    """Whether new sequences of the model can start."""
    try:
        models.current_forecaster(model, version)
    except CarryoverError:
        raise Malformed("Model version not ready") from None
    return Response()


@router.get("/models/{model}/config", operation_id="v2_model_config", responses=refusals(404))
@router.get(
    "/models/{model}/versions/{version}/config",
    operation_id="v2_model_version_config",
    responses=refusals(404),
)
async def config(models: Models, model: str, version: str = "") -> dict[str, Any]:
    """The model's configuration, including `sequence_batching`."""
    return models.config(model, version)


@router.get("/models/{model}", operation_id="v2_model_metadata", responses=refusals(404))
@router.get(
    "/models/{model}/versions/{version}",
    operation_id="v2_model_version_metadata",
    responses=refusals(404),
)
async def metadata(models: Models, model: str, version: str = "") -> dict[str, Any]:
    """Input and output tensors of the model."""
    return models.metadata(model, version)


@router.post(
    "/models/{model}/infer",
    operation_id="v2_model_infer",
    response_class=Response,
    responses={200: _RESPONSE, **refusals(400, 404, 501, 503)},
    openapi_extra=_REQUEST,
)
@router.post(
    "/models/{model}/versions/{version}/infer",
    operation_id="v2_model_version_infer",
    response_class=Response,
    responses={200: _RESPONSE, **refusals(400, 404, 501, 503)},
    openapi_extra=_REQUEST,
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


@router.post("/repository/index", operation_id="v2_repository_index", openapi_extra=_OPTIONS)
async def index(request: Request, models: Models) -> list[dict[str, Any]]:
    """Name, version and state of every model that is, or was, served."""
    return models.index(_json_object(await read_body(request)).get("ready") is True)


@router.post(
    "/repository/models/{model}/load",
    operation_id="v2_repository_model_load",
    openapi_extra=_OPTIONS,
    response_class=Response,
    responses=refusals(400, 403, 501),
)
async def load(request: Request, models: Models, model: str) -> Response:
    """Serve the artifact of this name as it is on disk now."""
    await models.load(get_caller(request), model, _json_object(await read_body(request)).get("parameters"))
    return Response()


@router.post(
    "/repository/models/{model}/unload",
    operation_id="v2_repository_model_unload",
    response_class=Response,
    responses=refusals(403),
)
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
