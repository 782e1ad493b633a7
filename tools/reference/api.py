"""Writes `docs/api.md` from the OpenAPI document of the app: `python docs/reference.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "api.md"
HEAD = """# API reference

Written by `python docs/reference.py` from the OpenAPI document, which a running server has at
`/openapi.json`, and for people at `/docs`. Sockets are not in it: the README tells of them.
Every error is a [problem](#problem) (RFC 9457).
"""
METHODS = ("get", "post", "put", "delete", "patch", "head")


def main() -> None:
    """Write the page."""
    from app.config import Settings
    from app.main import create_app

    PAGE.write_text(page(create_app(Settings()).openapi()))


def page(document: dict[str, Any]) -> str:
    """The document as Markdown."""
    parts = [HEAD, "## Calls\n"]
    for path, calls in document["paths"].items():
        parts += [call(method, path, calls[method]) for method in METHODS if method in calls]
    parts.append("## Shapes\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append("\n".join(shape(name, schema)))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def call(method: str, path: str, told: dict[str, Any]) -> str:
    """One call: what it does, what it takes, what it answers."""
    lines = [f"### `{method.upper()} {path}`\n", told.get("description", told.get("summary", "")), ""]
    lines += table(("parameter", "in", "type", ""), map(parameter, told.get("parameters", [])))
    for media, content in told.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        lines.append(f"Body: {kind(schema)}, `{media}`.\n")
        lines += fields(schema)
    answers = [answer(status, one) for status, one in sorted(told.get("responses", {}).items())]
    return "\n".join([*lines, f"Answers: {'; '.join(answers)}.\n"])


def answer(status: str, told: dict[str, Any]) -> str:
    """A status, and the shape of its body where it is none of the problems."""
    schema = next((one.get("schema", {}) for one in told.get("content", {}).values()), {})
    is_problem = schema.get("$ref", "").endswith("/Problem")
    return f"`{status}`" if is_problem or not schema else f"`{status}` {kind(schema)}"


def parameter(told: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table of parameters."""
    schema = told["schema"]
    about = told.get("description") or schema.get("description") or ""
    if schema.get("default") not in (None, ""):
        about = f"{about} (default {schema['default']})".strip()
    name = f"`{told['name']}`" + (", required" if told.get("required") and told["in"] != "path" else "")
    return name, told["in"], kind(schema), about


def shape(name: str, schema: dict[str, Any]) -> Iterator[str]:
    """A named shape with its fields."""
    yield f"### {name}\n"
    yield schema.get("description", "") + "\n"
    yield from fields(schema)


def fields(schema: dict[str, Any]) -> Iterator[str]:
    """The table of an object's fields."""
    required = set(schema.get("required", ()))
    rows = [
        (f"`{field}`" + (", required" if field in required else ""), kind(told), told.get("description", ""))
        for field, told in schema.get("properties", {}).items()
    ]
    yield from table(("field", "type", ""), rows)


def kind(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(map(kind, schema[several])))
    if "enum" in schema:
        return " or ".join(f'"{one}"' for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind(schema['additionalProperties'])}"
    if schema.get("format") == "binary":
        return "bytes"
    return f"{schema.get('type', 'anything')}{bounds(schema)}"


def bounds(schema: dict[str, Any]) -> str:
    """What a number or a text must keep to."""
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {schema[name]:g}" for name, sign in names.items() if name in schema]
    return f" {', '.join(told)}" if told else ""


def table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    """A table, and nothing where there are no rows."""
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    if lines:
        yield from (f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))
        yield ""


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
