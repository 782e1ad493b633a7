"""`GET /events`: the alerts of the caller's sessions, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.access.callers import ALL_TENANTS, Caller
from app.alerts.hub import AlertHub, Reader
from app.api.errors import problem_responses
from app.api.middleware.guard import get_caller
from app.api.middleware.head import IS_HEAD
from app.api.routes import StrictRoute, operation_id
from app.engine.batch import AlertEvent
from app.session.names import tenant_of

router = APIRouter(tags=["sessions"], route_class=StrictRoute, generate_unique_id_function=operation_id)

HEARTBEAT_SECONDS = 15.0
EVENT_STREAM = "text/event-stream"
NO_BUFFERING = {"x-accel-buffering": "no"}


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses=problem_responses(401, 403, 429, 503)
    | {200: {"description": "server-sent events", "content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
)
async def read_events(
    request: Request,
    last_event_id: Annotated[
        str | None, Header(max_length=200, description="go on behind this event, if it is remembered")
    ] = None,
) -> StreamingResponse:
    """Alerts of the caller's sessions as they are raised and cleared. A comment every 15 s keeps it open.

    The first block has an id and no event: so a reader who is disconnected before the first alert loses none.
    """
    caller = get_caller(request)
    if caller.tenant == ALL_TENANTS:
        caller.require_role("admin")
    if IS_HEAD in request.scope:  # it wants the headers alone, and the stream has no end
        caller.usage.check_socket()
        return StreamingResponse(_nothing(), media_type=EVENT_STREAM, headers=NO_BUFFERING)
    return _EventStream(request.app.state.alerts, caller, last_event_id)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


class _EventStream(StreamingResponse):
    """Counts as a socket of its caller while it runs."""

    def __init__(self, hub: AlertHub, caller: Caller, last_id: str | None) -> None:
        self._hub, self._caller, self._last_id = hub, caller, last_id
        super().__init__((), media_type=EVENT_STREAM, headers=NO_BUFFERING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hub, caller = self._hub, self._caller
        caller.usage.check_socket()  # nothing is awaited until it is counted: others may be checked meanwhile
        reader = hub.open("" if caller.tenant == ALL_TENANTS else caller.prefix, self._last_id)
        caller.usage.add_socket(reader)
        try:
            self.body_iterator = _stream(reader, caller)
            await super().__call__(scope, receive, send)
        finally:
            hub.forget(reader)
            caller.usage.remove_socket(reader)


async def _stream(reader: Reader, caller: Caller) -> AsyncIterator[bytes]:
    begin = "" if reader.begins_behind is None else f"id: {reader.begins_behind}\n"
    yield f": connected\n{begin}\n".encode()
    while not reader.is_closed:
        alerts = await reader.wait(HEARTBEAT_SECONDS)
        if alerts:
            yield b"".join(_encode(alert, caller) for alert in alerts)
        elif not reader.is_closed:
            yield b": heartbeat\n\n"


def _encode(alert: AlertEvent, caller: Caller) -> bytes:
    event = alert.event
    if caller.tenant == ALL_TENANTS:
        event = event | {"tenant": tenant_of(alert.session)}
    head = f"id: {event['id']}\nevent: {event['event']}\ndata: "
    return head.encode() + orjson.dumps(event) + b"\n\n"
