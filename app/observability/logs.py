"""One line an event: for people, or as JSON for machines. No observation, no key, and no body is ever in one.

A line of a request carries the request's id: what the client sent as `X-Request-ID`, else the trace id of its
`traceparent` (W3C Trace Context), else a fresh one. The answer tells it, too.
"""

from __future__ import annotations

import logging
import re
import secrets
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
GIVEN = re.compile(r"[A-Za-z0-9._:/+=\-]{1,128}", re.ASCII)
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*", re.ASCII)
FRAMES = "carryover.sockets.protocol"  # picows tells of every connection, with its address: not wanted
FIELDS = ("method", "route", "status", "ms", "key", "tenant")  # of an event, beside its sentence


def request_id(given: str | None, traceparent: str | None) -> str:
    """The id of a request. One that could break a line or a header is not taken over."""
    if given and GIVEN.fullmatch(given):
        return given
    trace = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return trace[1] if trace else secrets.token_hex(8)


class JsonFormatter(logging.Formatter):
    """An event as one JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        told |= _fields(record)
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(told, default=str).decode()


class TextFormatter(logging.Formatter):
    """An event as a line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, and its traceback's behind it."""
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        line = super().format(record)
        return f"{line} {fields}" if fields else line


def configuration(form: str, level: str) -> dict[str, Any]:
    """What `logging.config.dictConfig` and uvicorn take."""
    formatter = JsonFormatter if form == "json" else TextFormatter
    ours = {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
    # Set here: what a logger below one of these was told before is forgotten when these are configured.
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
        "loggers": {"carryover": ours, "uvicorn": ours, FRAMES: frames},
    }


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    told = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
    current = getattr(record, "request_id", None) or REQUEST_ID.get()
    return told | {"request_id": current} if current else told
