"""The OpenAPI document: valid, complete for every route alike, and its examples work as they are.

Nothing here names a route that has a schema of its own, so a new route is checked without a change. What it
needs is an example for a body that is not bytes, where `app/api/examples.py` does not know the body's shape.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from app import main
from app.api.errors import is_openai_path
from app.api.examples import OTHER_SESSION, SESSION
from app.api.middleware.guard import PUBLIC_PATHS
from app.codec.problems import PROBLEM_MEDIA_TYPE
from app.config import Settings
from tests.helpers.locked import Keys

pytestmark = pytest.mark.anyio

IDENTIFIER = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
OPEN_INFERENCE = "/v2"
STREAMED = "text/event-stream"  # has no end to wait for
MODELS = ["sine", "planned", "tokens"]  # one input; times and a future; whole numbers


@pytest.fixture
def store() -> str:
    return "memory"


@pytest.fixture(scope="module")
def document(zoo_folder) -> dict[str, Any]:
    return main.create_app(Settings(models=(zoo_folder,), default_model="sine")).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(item)


def resolve(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """The object itself, or what its `$ref` leads to."""
    if "$ref" not in value:
        return value
    found: Any = document
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return resolve(document, found)


def check_references(document: dict[str, Any]) -> int:
    """How many `$ref` there are; each leads somewhere."""
    references = [node for node in nodes(document) if isinstance(node.get("$ref"), str)]
    for node in references:
        assert node["$ref"].startswith("#/"), node
        try:
            resolve(document, node)
        except KeyError:
            pytest.fail(f"{node['$ref']} leads nowhere")
    return len(references)


def body_examples(operation: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Media types and bodies."""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        for example in content.get("examples", {}).values():
            yield media_type, example["value"]
        if "example" in content:
            yield media_type, content["example"]


def is_bytes(content: dict[str, Any]) -> bool:
    return content["schema"].get("format") == "binary"


def test_every_reference_leads_somewhere(document):
    assert check_references(document) > 100


def test_a_definition_within_a_body_would_be_noticed(document):
    body = {"$ref": "#/$defs/LearningOptions"}
    with pytest.raises(pytest.fail.Exception, match="leads nowhere"):
        check_references(document | {"more": [body]})


def test_the_document_is_valid(document):
    validate(document)
    assert document["openapi"].startswith("3.1")


def test_every_schema_is_used(document):
    used = {node["$ref"].rpartition("/")[2] for node in nodes(document) if isinstance(node.get("$ref"), str)}
    assert set(document["components"]["schemas"]) == used & set(document["components"]["schemas"])


def test_every_operation_has_a_name_a_summary_and_a_tag(document):
    tags = {tag["name"] for tag in document["tags"]}
    names = Counter()
    for method, path, operation in operations(document):
        names[operation["operationId"]] += 1
        assert IDENTIFIER.fullmatch(operation["operationId"]), operation["operationId"]
        assert not operation["operationId"].endswith(f"_{method.lower()}"), "FastAPI made this name"
        assert 3 <= len(operation["summary"]) <= 110, (path, operation["summary"])
        assert set(operation["tags"]) <= tags, path
        assert operation["tags"], path
    assert names.most_common(1)[0][1] == 1


def test_every_refusal_that_may_come_before_a_route_is_declared_in_the_format_of_errors(document):
    for method, path, operation in operations(document):
        answers, is_protocol = operation["responses"], path.startswith(OPEN_INFERENCE)
        expected = set() if path in PUBLIC_PATHS else {"401", "403"}
        expected |= {"400"} if is_protocol else {"421"}
        if "requestBody" in operation and not is_protocol:
            expected |= {"400", "413", "415"}
        if "sessions" in operation["tags"]:
            expected |= {"429", "503"}
        assert expected <= set(answers), (method, path)
        for status in answers:
            if status[0] in "45" and not path.startswith("/health"):
                is_json = is_protocol or is_openai_path(path)
                media_types = {"application/json"} if is_json else {PROBLEM_MEDIA_TYPE}
                assert set(answers[status]["content"]) == media_types, (method, path, status)


def test_every_example_is_valid_against_its_schema(document):
    seen = 0
    for node in nodes(document["paths"]):
        if "schema" not in node or is_bytes(node):
            continue
        examples = [example["value"] for example in node.get("examples", {}).values()]
        examples += [node["example"]] if "example" in node else []
        # The components are beside the schema, so that its references lead there.
        validator = Draft202012Validator(node["schema"] | {"components": document["components"]})
        for example in examples:
            validator.validate(example)
            seen += 1
    for schema in document["components"]["schemas"].values():
        for example in schema.get("examples", ()):
            Draft202012Validator(schema | {"components": document["components"]}).validate(example)
    assert seen > 30


def test_everything_that_a_request_needs_has_an_example(document):
    for _, path, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            if resolve(document, parameter).get("required"):
                assert "example" in parameter, (path, parameter["name"])
        body = operation.get("requestBody", {}).get("content", {})
        if body and not all(map(is_bytes, body.values())):
            assert list(body_examples(operation)), path


async def send(
    http: httpx.AsyncClient, method: str, path: str, operation: dict[str, Any], body: tuple[str, Any] | None
) -> tuple[int, str]:
    """Send an operation as its page does: with the examples of what it must have, and this body."""
    query = {}
    for parameter in operation.get("parameters", ()):
        if parameter.get("in") == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
        elif "example" in parameter:
            query[parameter["name"]] = parameter["example"]
    sent: dict[str, Any] = {}
    if body is not None:
        media_type, value = body
        kind = "json" if media_type.endswith("json") else "content"
        sent = {kind: value, "headers": {"content-type": media_type}}
    async with http.stream(method, path, params=query, **sent) as response:
        if response.headers.get("content-type", "").startswith(STREAMED):
            return response.status_code, ""
        return response.status_code, (await response.aread()).decode(errors="replace")


def creates_session(body: tuple[str, Any] | None) -> bool:
    """Whether this is a chunk. Its times are those of the chunk that would make the session first."""
    if body is None or body[0] == "text/csv":
        return body is not None
    return isinstance(body[1], dict) and "observations" in body[1]


@pytest.mark.parametrize("model", MODELS)
async def test_every_example_works_as_it_is(start_hot, zoo_folder, model):
    """Over a connection: a route that streams has no end that could be waited for in memory."""
    async with start_hot(default_model=model) as service:
        http, document = service.http, service.app.openapi()
        chunk = document["paths"]["/sessions/{id}/observations"]["post"]
        created = next(body_examples(chunk))[1]
        forecaster = service.engine.residents.models.current[model].forecaster
        for method, path, operation in operations(document):
            examples: list[tuple[str, Any] | None] = [*body_examples(operation)]
            if path.endswith("/state") and method == "PUT":
                state = await http.get(f"/sessions/{SESSION}/state")
                examples = [("application/octet-stream", state.content)]
            if "forecast" in path and (
                forecaster.missing or (method == "GET" and forecaster.artifact.future)
            ):
                continue  # it has no query that could name the inputs that are known ahead
            if "text" in operation["tags"] and forecaster.artifact.text is None:
                continue  # tests/promises/test_text.py tries them
            if path.endswith(("/figure", "/audio")):
                continue  # these models were not trained, so they have none; and they take no samples
            for body in examples or [None]:
                for session in (SESSION, OTHER_SESSION):
                    await http.delete(f"/sessions/{session}")
                if "{id}" in path and not creates_session(body):
                    answer = await http.post(f"/sessions/{SESSION}/observations", json=created)
                    assert answer.status_code == 200, answer.text
                await http.post(f"/v2/repository/models/{model}/load")  # again, if an example unloaded it
                status, text = await send(http, method, path, operation, body)
                assert 200 <= status < 300, (method, path, body, text)


async def test_a_server_without_a_default_model_names_one_in_its_examples(start_http):
    async with start_http(default_model=None) as service:
        assert service.engine.residents.models.default_model is None
        document = service.app.openapi()
        for path in ("/sessions", "/sessions/{id}/observations", "/observations"):
            operation = document["paths"][path]["post"]
            status, text = await send(service.http, "POST", path, operation, next(body_examples(operation)))
            assert status < 300, text


async def test_a_server_with_keys_asks_for_one_and_says_where(start_http, tmp_path):
    keys = Keys(tmp_path)
    keys.add("acme")
    async with start_http(api_keys_file=keys.path) as service:
        document = (await service.http.get("/openapi.json")).json()
        assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
        assert document["security"] == [{"apiKey": []}]
        validate(document)
        for method, path, operation in operations(document):
            needs_key = operation.get("security") != []
            assert needs_key == (path not in PUBLIC_PATHS)
            url = re.sub(r"{\w+}", "x", path)
            assert ((await service.http.request(method, url)).status_code == 401) == needs_key, (method, path)


def test_a_server_without_keys_asks_for_none(document):
    assert document["security"] == []
    assert "securitySchemes" not in document["components"]
