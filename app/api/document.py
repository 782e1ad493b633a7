"""The OpenAPI document: FastAPI's, made whole for every route alike.

FastAPI describes what the routes declare. What holds for all routes is added here, so that no route has to
repeat it and none can forget it: who may call, how a call can be refused before it reaches its route, and
examples that the server's own model accepts.
"""

from __future__ import annotations

import json
import re
from threading import Lock
from typing import Any

from fastapi import FastAPI

from app.access.callers import Authenticator
from app.access.origins import TENANT_HEADER
from app.api.errors import (
    inference_error_responses,
    is_open_inference_path,
    is_openai_path,
    openai_error_responses,
    problem_responses,
)
from app.api.examples import Examples, body_examples, inference_example, parameter_examples
from app.api.middleware.guard import PUBLIC_PATHS
from app.api.schemas import DEFINITIONS
from app.engine.engine import Engine
from app.errors import CarryoverError
from models.forecaster import Forecaster

TAGS = [
    {"name": "sessions", "description": "Streams, each with the recurrent state that its model carries."},
    {"name": "text", "description": "What models of text write, token by token."},
    {"name": "models", "description": "The networks that are loaded."},
    {"name": "health", "description": "For load balancers and supervisors. No key is needed."},
    {"name": "operations", "description": "For monitoring."},
    {"name": "open-inference", "description": "For clients of KServe, Triton and the like."},
]
LICENSE = {"name": "Apache License 2.0", "identifier": "Apache-2.0"}
SERVERS = [{"url": "/", "description": "this server"}]
KEY = "apiKey"
KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "The API key that `carryover keys add` printed.",
}
TENANT = {
    "name": TENANT_HEADER,
    "in": "header",
    "required": False,
    "description": "With the key of an admin: the tenant whose sessions are meant, or * for all.",
    "schema": {"type": "string"},
}
OF_EVERY_CALL = {421}  # its `Host`
OF_A_CALLER = {401, 403}
OF_A_BODY = {400, 413, 415}
OF_A_SESSION = {429, 503}  # limits of the key; what the engine cannot take
STATUSES_OPEN_INFERENCE = {400, 401, 403, 503}  # as `app.codec.problems` maps the same refusals there
FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")  # no answer has these shapes

Operation = dict[str, Any]


class OpenApiDocument:
    """Makes the document of an app; made again when another model becomes the one of the examples."""

    def __init__(self, app: FastAPI, authenticator: Authenticator) -> None:
        self._app = app
        self._engine: Engine = authenticator.engine
        self._needs_key = authenticator.key_ring is not None
        self._document: dict[str, Any] = {}
        self._made_for: tuple[str, bool] | None = None
        self._making = Lock()  # several threads may ask

    def encode(self) -> bytes:
        """The document as JSON; from any thread."""
        with self._making:
            return json.dumps(self()).encode()  # orjson refuses the bound of a seed, 2**64

    def __call__(self) -> dict[str, Any]:
        """The document."""
        models = self._engine.residents.models
        name = models.default_model or next(iter(models.current))
        forecaster = models.current[name].forecaster
        made_for = (forecaster.artifact.fingerprint, models.default_model is not None)
        if made_for != self._made_for:
            self._document = self._make(forecaster, is_default=made_for[1])
            self._made_for = made_for
        return self._document

    def _make(self, forecaster: Forecaster, *, is_default: bool) -> dict[str, Any]:
        self._app.openapi_schema = None  # FastAPI keeps what it made
        document = FastAPI.openapi(self._app)
        schemas = document["components"]["schemas"]
        for name in FASTAPIS_OWN:
            schemas.pop(name, None)
        bodies = body_examples(forecaster, is_default=is_default)
        parameters = parameter_examples(forecaster)
        inference = self._inference_examples(forecaster)
        document["components"]["parameters"] = {"Tenant": TENANT}
        document["security"] = [{KEY: []}] if self._needs_key else []
        if self._needs_key:
            document["components"]["securitySchemes"] = {KEY: KEY_SCHEME}
        for path, item in document["paths"].items():
            for operation in item.values():
                operation["summary"] = _first_sentence(operation.get("description", operation["summary"]))
                _declare_refusals(path, operation)
                _add_parameter_examples(operation, parameters)
                _add_body_examples(operation, inference if path.endswith("/infer") else bodies)
                if path in PUBLIC_PATHS:
                    operation["security"] = []
                else:
                    operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/Tenant"})
        _move_definitions(document["paths"], schemas)
        return document

    def _inference_examples(self, forecaster: Forecaster) -> dict[str, Examples]:
        try:
            inputs = self._app.state.catalog.metadata(forecaster.artifact.name)["inputs"]
        except CarryoverError:  # unloaded by a client of that protocol
            return {}
        return {"InferenceRequest": inference_example(forecaster, inputs)}


def _move_definitions(value: Any, schemas: dict[str, Any]) -> None:
    """Move `$defs`, which pydantic puts beside what refers to them, to the schemas of the document."""
    if isinstance(value, dict):
        for name, schema in value.pop("$defs", {}).items():
            schemas.setdefault(name, schema)
            _move_definitions(schema, schemas)
        if isinstance(reference := value.get("$ref"), str):
            value["$ref"] = reference.replace(DEFINITIONS, "#/components/schemas/")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _move_definitions(item, schemas)


def _first_sentence(description: str) -> str:
    """The summary of an operation."""
    sentence = re.split(r"(?<=[.:;])\s", " ".join(description.split()), maxsplit=1)[0]
    return sentence.rstrip(".:;").replace("`", "")


def _declare_refusals(path: str, operation: Operation) -> None:
    responses = operation["responses"]
    statuses = set(OF_EVERY_CALL)
    if path not in PUBLIC_PATHS:
        statuses |= OF_A_CALLER
    if "requestBody" in operation:
        statuses |= OF_A_BODY
    if {"sessions", "text"} & set(operation.get("tags", ())):
        statuses |= OF_A_SESSION
    if is_open_inference_path(path):
        responses.pop("422", None)  # FastAPI's guess
        added = inference_error_responses(*(STATUSES_OPEN_INFERENCE & (statuses | {400})))
    else:
        if _is_fastapis_guess(responses.get("422")):
            del responses["422"]
            if any(parameter.get("in") != "path" for parameter in operation.get("parameters", ())):
                statuses.add(422)
        declare = openai_error_responses if is_openai_path(path) else problem_responses
        added = declare(*statuses)
    for status, response in added.items():
        responses.setdefault(str(status), response)
    operation["responses"] = dict(sorted(responses.items()))


def _is_fastapis_guess(response: dict[str, Any] | None) -> bool:
    return response is not None and FASTAPIS_OWN[0] in str(response)


def _add_parameter_examples(operation: Operation, examples: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        if parameter.get("required") and parameter["name"] in examples and "examples" not in parameter:
            parameter["example"] = examples[parameter["name"]]


def _add_body_examples(operation: Operation, examples: dict[str, Examples]) -> None:
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        reference = content.get("schema", {}).get("$ref")
        name = media_type if reference is None else reference.rpartition("/")[2]
        if name in examples and "example" not in content and "examples" not in content:
            content["examples"] = examples[name]
