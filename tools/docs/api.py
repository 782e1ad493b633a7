"""`docs/reference/api.md`: every call and every shape, from the OpenAPI document of the app."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tools.docs.markdown import table

INTRODUCTION = """# Every call and shape

This page is written by `make reference` from the OpenAPI document. A running server has that document at
`/openapi.json`, and shows it at `/docs`; its examples fit the server's default model. OpenAPI does not
describe sockets: see [sockets](sockets.md), and `/asyncapi.json`. Every error is a [problem](#problem)
(RFC 9457). Each call except those of health also takes the header `Carryover-Tenant`, with which the key of
an [admin](../how-to/keys.md) names a tenant.
"""
METHODS = ("get", "post", "put", "delete", "patch", "head")


def page() -> str:
    """Return the page for the app with its default settings."""
    from app.config import Settings
    from app.main import create_app

    return render(create_app(Settings()).openapi())


def render(document: dict[str, Any]) -> str:
    """Return an OpenAPI document as Markdown."""
    parts = [INTRODUCTION, "## Calls\n"]
    for path, calls in document["paths"].items():
        parts += [call(method, path, calls[method]) for method in METHODS if method in calls]
    parts.append("## Shapes\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append("\n".join(shape(name, schema)))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def call(method: str, path: str, operation: dict[str, Any]) -> str:
    """Return the section of one call: what it does, what it takes, what it answers."""
    description = operation.get("description", operation.get("summary", ""))
    lines = [f"### `{method.upper()} {path}`\n", description, ""]
    lines += table(("parameter", "in", "type", ""), map(parameter, own_parameters(operation)))
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        lines.append(f"Body: {kind(schema)}, `{media}`.\n")
        lines += fields(schema)
    answers = [
        answer(status, response) for status, response in sorted(operation.get("responses", {}).items())
    ]
    return "\n".join([*lines, f"Answers: {'; '.join(answers)}.\n"])


def own_parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters of a call, without those that every call has."""
    return [each for each in operation.get("parameters", []) if "$ref" not in each]


def answer(status: str, response: dict[str, Any]) -> str:
    """Return a status, and the shape of its body unless that is a problem."""
    schema: dict[str, Any] = next(
        (content.get("schema", {}) for content in response.get("content", {}).values()), {}
    )
    is_problem = schema.get("$ref", "").endswith("/Problem")
    return f"`{status}`" if is_problem or not schema else f"`{status}` {kind(schema)}"


def parameter(described: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the table of parameters."""
    schema = described["schema"]
    about = described.get("description") or schema.get("description") or ""
    if schema.get("default") not in (None, ""):
        about = f"{about} (default {schema['default']})".strip()
    required = described.get("required") and described["in"] != "path"
    name = f"`{described['name']}`" + (", required" if required else "")
    return name, described["in"], kind(schema), about


def shape(name: str, schema: dict[str, Any]) -> Iterator[str]:
    """Yield the section of a named shape."""
    yield f"### {name}\n"
    yield schema.get("description", "") + "\n"
    if "properties" not in schema:
        yield f"{kind(schema)}.\n"
    yield from fields(schema)


def fields(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the table of an object's fields."""
    required = set(schema.get("required", ()))
    rows = [
        (f"`{name}`" + (", required" if name in required else ""), kind(field), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    yield from table(("field", "type", ""), rows)


def kind(schema: dict[str, Any]) -> str:
    """Return a schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in schema:
            return " or ".join(dict.fromkeys(map(kind, schema[alternatives])))
    if "enum" in schema:
        return " or ".join(f'"{value}"' for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind(schema['additionalProperties'])}"
    if schema.get("format") == "binary":
        return "bytes"
    return f"{schema.get('type', 'anything')}{bounds(schema)}"


def bounds(schema: dict[str, Any]) -> str:
    """Return the bounds of a number or a text."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {_shown(schema[name])}" for name, sign in signs.items() if name in schema]
    return f" {', '.join(found)}" if found else ""


def _shown(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"
