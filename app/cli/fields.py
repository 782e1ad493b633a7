"""The fields of a JSON document as lines of text, each with its path: `errors.by_target.flow.mse  0.25`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print a line for each field that has a value; fields with parts have a line for each part."""
    lines = [line for name, value in fields.items() for line in _lines(name, value)]
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        print(f"{name:{width}}  {text}")


def _lines(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for part, inner in value.items():
            yield from _lines(f"{name}.{part}", inner)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for number, inner in enumerate(value, 1):
            yield from _lines(f"{name}.{number}", inner)
    elif value is not None:
        yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(" ", "milliseconds")
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
