"""Numbers out of a message, by the names of the model's inputs.

A model with one input takes a plain number. From a JSON object, or the fields of an entry, every input is
read from the field of its own name, or from the field that `--field` names. A field may lie deeper:
`payload.temperature`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.connectors.source import BadMessage
from app.errors import ConfigError

_SHOWN = 80


class Reader:
    """Reads an observation from a payload.

    inputs : the names of the model's inputs, in its order
    fields : `INPUT=FIELD`; for a model with one input `FIELD` is enough
    """

    def __init__(self, inputs: Sequence[str], fields: Sequence[str]) -> None:
        self._paths = _paths(inputs, fields)
        self._only = len(inputs) == 1

    def read(self, payload: bytes | Mapping[str, str]) -> list[float | None]:
        """Return an observation, [inputs]; None is a value that was not observed.

        Raises
        ------
        BadMessage : the payload has not all the numbers that the model needs
        """
        parsed: Any = payload if isinstance(payload, Mapping) else _parse(payload)
        if isinstance(parsed, Mapping):
            return [_number(_look_up(parsed, path), path) for path in self._paths.values()]
        if isinstance(parsed, list) and len(parsed) == len(self._paths):
            return [_number(value, name) for name, value in zip(self._paths, parsed, strict=True)]
        if self._only and not isinstance(parsed, list):
            return [_number(parsed, "the message")]
        needed = ", ".join(self._paths)
        raise BadMessage(f"{_shorten(parsed)} is not an observation of {needed}")


def _paths(inputs: Sequence[str], fields: Sequence[str]) -> dict[str, str]:
    """The field of every input, in the order of the model."""
    if len(inputs) == 1 and len(fields) == 1 and "=" not in fields[0]:
        return {inputs[0]: fields[0]}
    paths = {name: name for name in inputs}
    for text in fields:
        name, equals, path = text.partition("=")
        if name not in paths:
            raise ConfigError(f"--field {text}: the model has no input {name!r}; it has {', '.join(inputs)}")
        paths[name] = path if equals else name
    return paths


def _parse(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        raise BadMessage(f"{_shorten(payload)} is neither a number nor JSON") from None


def _look_up(fields: Mapping[str, Any], path: str) -> Any:
    """The value of a field by its name; or by a path of names, through objects and JSON texts."""
    if path in fields:
        return fields[path]
    value: Any = fields
    for name in path.split("."):
        if isinstance(value, str):
            value = _parse(_bytes(value))
        if not isinstance(value, Mapping) or name not in value:
            raise BadMessage(f"there is no field {path!r}; the message has {', '.join(sorted(fields))}")
        value = value[name]
    return value


def _number(value: Any, where: str) -> float | None:
    if isinstance(value, str):  # the fields of an entry are texts
        value = _parse(_bytes(value))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise BadMessage(f"{where} is {_shorten(value)}, which is not a finite number")
    return value


def _bytes(text: str) -> bytes:
    """As they came: Redis may hold bytes that are no text."""
    return text.encode("utf-8", "surrogateescape")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float64
        return False


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
