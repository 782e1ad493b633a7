"""One line for each event, as text or as JSON. No line holds an observation, a key, or a body.

The traceback of a crash holds no session's name: texts that an exception quotes are left out.
The line of a request carries the request's id: the client's `X-Request-ID`, else the trace id of its
`traceparent` (W3C Trace Context), else a fresh id. The answer carries the same id.
"""

from __future__ import annotations

import logging
import re
import secrets
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._:/+=\-]{1,128}", re.ASCII)
QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*", re.ASCII)
SOCKET_LOGGER = "carryover.sockets.protocol"  # picows logs every connection with its address
FIELDS = ("method", "route", "status", "ms", "key", "tenant")  # that an event may have


def request_id(given: str | None, traceparent: str | None) -> str:
    """The id of a request. A client's id that could break a line or a header is ignored."""
    if given and REQUEST_ID_PATTERN.fullmatch(given):
        return given
    trace = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return trace[1] if trace else secrets.token_hex(8)


class _Formatter(logging.Formatter):
    """Formats an exception so that no session's name is in it."""

    def formatException(self, exc_info: Any) -> str:  # noqa: N802  (logging's name)
        """The tracebacks of an exception and of those that it came from."""
        return "\n".join(_traceback(exc_info[1])).rstrip("\n")


def _traceback(error: BaseException) -> Iterator[str]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _traceback(before)
        yield "This exception led to another:\n"
    yield "Traceback (most recent call last):\n" + "".join(traceback.format_tb(error.__traceback__))
    yield QUOTED.sub("'...'", "".join(traceback.format_exception_only(error)))
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _traceback(part)


class JsonFormatter(_Formatter):
    """An event as a JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        payload: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        payload |= _fields(record)
        if record.exc_info:
            payload["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(payload, default=str).decode()


class TextFormatter(_Formatter):
    """An event as a line of text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, and the lines of its traceback after it."""
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        line = super().format(record)
        return f"{line} {fields}" if fields else line


def configuration(form: str, level: str) -> dict[str, Any]:
    """The argument of `logging.config.dictConfig`, which uvicorn takes, too."""
    formatter = JsonFormatter if form == "json" else TextFormatter
    ours = {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
    # Set here, because configuring a logger resets the loggers below it.
    frames = {"level": max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()])}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stderr",
            }
        },
        "loggers": {"carryover": ours, "uvicorn": ours, SOCKET_LOGGER: frames},
    }


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
    current = getattr(record, "request_id", None) or REQUEST_ID.get()
    return fields | {"request_id": current} if current else fields
