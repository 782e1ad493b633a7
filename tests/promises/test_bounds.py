"""A number that no field can hold is refused where it comes in, by the name of its field, in every way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from app.codec.frames import HEADER, RATE
from models.artifact.files import save
from tests.helpers import graphs, zoo
from tests.helpers.text import text_model
from tests.helpers.ways import TextSocket

pytestmark = pytest.mark.anyio

Request = tuple[str, str, str, dict[str, Any]]
"""Method, path, field that has the number, and the rest."""

CHUNK, GENERATE = "/sessions/s/observations", "/sessions/t/generate"
AUDIO, INFER = "/sessions/l/audio", "/v2/models/sine/infer"
ROWS = {"observations": [[0.5]]}
TABLE = {"content": "value\n0.5\n", "headers": {"content-type": "text/csv"}}
SAMPLES = {"content": bytes(8), "headers": {"content-type": "audio/l16;rate=8000"}}
# By method and path: the rest of the body, and the fields that get the number.
BODIES: dict[tuple[str, str], tuple[dict[str, Any], tuple[str, ...]]] = {
    ("POST", CHUNK): (ROWS, ("at", "horizon", "rate", "level", "epoch")),
    ("POST", "/sessions/s/reset"): ({}, ("at",)),
    ("POST", "/sessions/s/fork"): ({}, ("at",)),
    ("PATCH", "/sessions/s"): ({"labels": {"a": "b"}}, ("at",)),
    ("POST", "/sessions"): ({}, ("ttl_seconds",)),
    ("POST", "/sessions/s/forecast"): ({}, ("steps",)),
    ("POST", GENERATE): ({"prompt": "the ", "steps": 2}, ("at", "steps", "top_k", "seed")),
    ("POST", "/v1/completions"): (
        {"model": "letters", "prompt": "the ", "max_tokens": 2},
        ("max_tokens", "top_k", "seed", "n", "best_of", "logprobs"),
    ),
}
# The same for the query.
QUERIES: dict[tuple[str, str], tuple[dict[str, Any], tuple[str, ...]]] = {
    ("GET", "/sessions"): ({}, ("limit",)),
    ("DELETE", "/sessions/s"): ({}, ("at",)),
    ("POST", CHUNK): (TABLE, ("at", "horizon")),
    ("POST", AUDIO): (SAMPLES, ("at",)),
    ("GET", "/sessions/s/forecast"): ({}, ("steps",)),
    ("GET", "/sessions/s/history"): ({}, ("last", "from", "limit")),
    ("PUT", "/sessions/s/state"): ({}, ("at",)),
}


@pytest.fixture
def store() -> str:
    return "memory"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bounds")
    save(text_model(), folder / "letters")
    save(zoo.artifacts()["sine"], folder / "sine")
    save(graphs.loudness(), folder / "loudness")
    return folder


def requests(number: int) -> Iterator[Request]:
    for (method, path), (body, fields) in BODIES.items():
        for field in fields:
            yield method, path, field, {"json": body | {field: number}}
    for (method, path), (rest, fields) in QUERIES.items():
        for field in fields:
            yield method, path, field, rest | {"params": {field: str(number)}}
    yield from nested(number)
    yield from in_headers(number)


def nested(number: int) -> Iterator[Request]:
    """Requests with the number in a list, or in place of the observations."""
    yield "POST", CHUNK, "skip", {"json": {"skip": number}}
    yield "POST", CHUNK, "timestamps", {"json": ROWS | {"timestamps": [number]}}
    yield "POST", CHUNK, "levels", {"json": ROWS | {"levels": [number]}}
    yield "POST", CHUNK, "inputs", {"json": {"inputs": {"observations": [number]}}}
    yield "POST", CHUNK, "future", {"json": ROWS | {"horizon": 1, "future": [[number]]}}
    alerts = {
        "clear_after": {"score_above": 0.9, "clear_after": number},
        "alarms_per_week": {"alarms_per_week": number},
    }
    for field, alert in alerts.items():
        yield "POST", "/sessions", f"alert.{field}", {"json": {"alert": alert}}
        yield "PATCH", "/sessions/s", f"alert.{field}", {"json": {"alert": alert}}
    yield "POST", GENERATE, "prompt", {"json": {"prompt": [number], "steps": 2}}
    yield "POST", GENERATE, "stop", {"json": {"prompt": "the ", "steps": 2, "stop": [number]}}
    yield "POST", "/v1/completions", "prompt", {"json": {"model": "letters", "prompt": [number]}}


def in_headers(number: int) -> Iterator[Request]:
    last = {"last-event-id": f"00000000000000ff.{number}", "accept": "text/event-stream"}
    yield "POST", GENERATE, "last-event-id", {"json": {"steps": 2}, "headers": last}
    for field, parameters in {"rate": f"rate={number}", "channels": f"rate=8000;channels={number}"}.items():
        yield "POST", AUDIO, field, SAMPLES | {"headers": {"content-type": f"audio/l16;{parameters}"}}


def inferences(number: int) -> Iterator[Request]:
    """Those of the Open Inference Protocol, with what its errors say in place of the field."""
    tensor = {"name": "observations", "shape": [1, 1, 1], "datatype": "FP32", "data": [0.5]}
    started = {"sequence_id": 7, "sequence_start": True}
    for name in ("at", "horizon", "sequence_id"):
        body = {"inputs": [tensor], "parameters": started | {name: number}}
        yield "POST", INFER, name, {"json": body}
    raw = {"content": np.float32(0.5).tobytes(), "headers": {"inference-header-content-length": "0"}}
    for name in ("at", "horizon"):
        query = {key: str(value) for key, value in (started | {name: number}).items()}
        yield "POST", INFER, name, raw | {"params": query}
    for wrong in ({"shape": [1, number, 1]}, {"data": None, "parameters": {"binary_data_size": number}}):
        yield "POST", INFER, "", {"json": {"inputs": [tensor | wrong], "parameters": started}}
    body = json.dumps({"inputs": [tensor], "parameters": started})
    for length in (str(number), "0" * 20 + "9" * 5000):  # Python reads no integer of so many digits
        headers = {"inference-header-content-length": length}
        yield "POST", INFER, "header size", {"content": body, "headers": headers}


def is_named(field: str, path: str, answer: dict[str, Any]) -> bool:
    problem = answer.get("problem", answer)
    if path == INFER:
        return field in problem["detail"]
    if field == "timestamps":  # as observations, by its row
        return problem.get("row") == 0
    return problem.get("field", "").startswith(field)


@pytest.mark.parametrize("number", [10**30, 2**64, -(10**30)], ids=["10**30", "2**64", "-10**30"])
async def test_a_number_beyond_64_bits_is_refused_by_name_in_every_field(start_hot, folder, number):
    wrong: dict[tuple[str, ...], Any] = {}
    async with start_hot(models=(folder,)) as service:
        http = service.http
        for session, model in (("s", "sine"), ("t", "letters"), ("l", "loudness")):
            made = await http.post("/sessions", json={"id": session, "model": model})
            assert made.status_code == 201, made.text
        transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as ordinary:
            for client in (http, ordinary):
                for method, path, field, rest in (*requests(number), *inferences(number)):
                    answer = await client.request(method, path, **rest)
                    if not 400 <= answer.status_code < 500 or not is_named(field, path, answer.json()):
                        wrong[method, path, field] = answer.status_code, answer.text
        socket = TextSocket(service.engine, http, service.port)
        for body in (
            ROWS | {"at": number},
            ROWS | {"horizon": number},
            ROWS | {"rate": number},
            {"skip": number},
        ):
            reply = await socket.raw("s", json.dumps(body).encode())
            if reply.status not in (413, 422) or reply.problem.get("field") not in body:
                wrong["socket", *body] = reply
        reset = await socket.raw("s", json.dumps({"reset": True, "at": number}).encode())
        assert (reset.status, reset.problem["field"]) == (422, "at")
        for flags, field in ((0, "horizon"), (RATE, "rate")):  # of 32 bits each
            line = await socket._line("l")
            reply = json.loads(await line.ask(HEADER.pack(0, flags, 1, 2**32 - 1, -1, 0) + bytes(4)))
            assert (reply["status"], reply["field"]) == (422, field)
        await socket.close()
        answer = await http.post("/observations", json=ROWS | {"sessions": ["s"], "at": [number]})
        assert answer.json()["errors"]["0"]["field"] == "at"
        assert wrong == {}
        # Nothing has moved, and all of it still answers.
        for session in ("s", "t", "l"):
            assert (await service.session(session))["position"] == 0
            chunk = await http.post(f"/sessions/{session}/observations", json={"observations": [[1]]})
            assert chunk.status_code == 200, chunk.text
        text = await http.post(GENERATE, json={"prompt": "the ", "steps": 2, "top_k": 2**24})
        assert (text.status_code, text.json()["position"]) == (200, 7)


async def test_every_integer_of_the_document_is_among_these_fields(start_http, folder):
    async with start_http(models=(folder,)) as service:
        document = service.app.openapi()
    sent = {(method, path, field.partition(".")[0]) for method, path, field, _ in requests(0)}
    sent |= {("POST", "/observations", "at")}
    known = {found for found in integers(document) if not found[1].startswith("/v2/")}
    left_out = [
        (method, template, field)
        for method, template, field in known
        if not any(
            (method, field) == (way, name) and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
            for way, path, name in sent
        )
    ]
    assert len(known) > 25
    assert left_out == []


def integers(document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Method, path and field of every integer that a client may send."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            body = resolved(content.get("application/json", {}).get("schema", {}), document)
            parameters = [resolved(each, document) for each in operation.get("parameters", ())]
            fields = {each["name"]: each["schema"] for each in parameters}
            for name, schema in (fields | body.get("properties", {})).items():
                if has_integer(schema, document):
                    yield method.upper(), path, name


def has_integer(schema: dict[str, Any], document: dict[str, Any]) -> bool:
    schema = resolved(schema, document)
    parts = [*schema.get("anyOf", ()), *schema.get("properties", {}).values()]
    parts += [part for part in (schema.get("items"),) if isinstance(part, dict)]
    return schema.get("type") == "integer" or any(has_integer(part, document) for part in parts)


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        kind, name = schema["$ref"].split("/")[2:]
        schema = document["components"][kind][name]
    return schema
