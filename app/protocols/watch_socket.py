"""`WS /sessions/{id}/watch`: shows what others send to a session, and moves nothing.

The first message says where the session is, and what it observed last. Then come messages of `events` in
their order, at most one every `GATHER_SECONDS`, so that a fast stream is a few messages a second and not
thousands. Nothing is buffered without bound: of what a slow reader does not fetch the oldest is dropped, and
`missed` says how many observations that were.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import orjson
from picows import WSCloseCode, WSFrame, WSMsgType, WSTransport

from app.access.callers import Caller
from app.codec import answers, frames
from app.errors import CarryoverError, Unavailable
from app.jobs.answers import SessionHistory
from app.jobs.jobs import Event, Watch
from app.protocols.caller_socket import CallerSocket, close_code, has_reserved_bits

GATHER_SECONDS = 0.05
MAX_OBSERVATIONS = 20_000  # that wait for one watcher


class WatchSocket(CallerSocket):
    """One socket that watches one session.

    Parameters
    ----------
    session : as its client calls it
    caller : who watches
    connections : uvicorn's; on shutdown it waits until they have left the set
    """

    def __init__(self, session: str, caller: Caller, connections: set[Any]) -> None:
        super().__init__(caller, connections)
        self.session = session
        self._name = caller.internal_name(session)
        self._events: deque[Event] = deque()
        self._observations = 0  # in `_events`
        self._missed = 0  # observations that were dropped
        self._timer: asyncio.TimerHandle | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Send where the session is; what happens to it after that is shown."""
        super().on_ws_connected(transport)
        try:
            self.caller.submit(Watch(self.session, self, self._greet))
        except CarryoverError as error:
            self._close(WSCloseCode.TRY_AGAIN_LATER, error.detail[:100])

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002
        """A watcher sends nothing but its close."""
        if has_reserved_bits(frame):
            self._close_for_reserved_bits()
        elif frame.msg_type == WSMsgType.CLOSE:
            self._close(close_code(frame), "")
        elif frame.msg_type in {WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION}:
            self._close(WSCloseCode.POLICY_VIOLATION, "a watch takes no messages: send to /stream")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The watcher has gone, and costs nothing any more."""
        super().on_ws_disconnected(transport)
        self._stop_watching()

    def resume_writing(self) -> None:
        """The watcher reads again: send the events that waited. The oldest may have been dropped."""
        super().resume_writing()
        self._flush()

    def shutdown(self) -> None:
        """Close with 1001 (uvicorn)."""
        self._close(WSCloseCode.GOING_AWAY, "the server is stopping")

    def notify(self, event: Event) -> None:
        """Gather what happened; what comes within a moment leaves together."""
        self._events.append(event)
        self._observations += _observation_count(event)
        while self._observations > MAX_OBSERVATIONS and len(self._events) > 1:
            count = _observation_count(self._events.popleft())
            self._observations -= count
            self._missed += count
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._flush)

    def end(self) -> None:
        """Close, so that the client watches anew: its session is coming back."""
        self._close(WSCloseCode.TRY_AGAIN_LATER, "the server lost this session for a moment")

    def _greet(self, outcome: Any) -> None:
        if self._transport is None:
            self._stop_watching()
            return
        if isinstance(outcome, Unavailable):
            self._close(WSCloseCode.TRY_AGAIN_LATER, outcome.detail[:100])
            return
        message: dict[str, Any] = {"watching": self.session, "model": None, "position": None, "epoch": None}
        if isinstance(outcome, SessionHistory):
            history = answers.encode_history(outcome)
            del history["session"]
            message |= {name: history.pop(name) for name in ("model", "position", "epoch")}
            message["history"] = history
        self._send(message)

    def _flush(self) -> None:
        self._cancel_timer()
        if self._write_paused or not self._events:
            return
        message: dict[str, Any] = {"events": [_with_readable_times(event) for event in self._events]}
        if self._missed:
            message["missed"] = self._missed
        self._events.clear()
        self._observations = self._missed = 0
        self._send(message)

    def _send(self, message: dict[str, Any]) -> None:
        self._write(frames.encode_frame(orjson.dumps(message, option=answers.ARRAYS), text=True))

    def _stop_watching(self) -> None:
        self.caller.engine.unwatch(self._name, self)
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self, code: WSCloseCode, reason: str) -> None:
        self._flush()
        self._stop_watching()
        super()._close(code, reason)


def _with_readable_times(event: Event) -> Event:
    """The event with its times, and what is of samples, as answers have them."""
    readable = answers.TIMES | answers.OF_SAMPLES
    return {
        name: answers.output_array(name, value, flat=False) if name in readable else value
        for name, value in event.items()
    }


def _observation_count(event: Event) -> int:
    return len(event.get("observations", "-"))
