"""`WS /sessions/{id}/watch`: looks on while others feed a session; what it is sent moves nothing.

The first message tells where the session is. Then come messages of `events` in their order, at most one every
`GATHER_SECONDS`, so that a fast stream is a few messages a second and not thousands. Nothing is buffered
without bound: of what a slow reader leaves lying the oldest is dropped, and `missed` says how many
observations that were.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import orjson
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from app.access.callers import Caller
from app.codec import frames
from app.engine.watchers import Event
from app.errors import CarryoverError
from app.jobs.answers import SessionView, token
from app.jobs.jobs import Inspect

GATHER_SECONDS = 0.05
MOST_OBSERVATIONS = 20_000  # that lie waiting for one watcher
NUMPY = orjson.OPT_SERIALIZE_NUMPY


class Watching(WSListener):
    """One socket that watches one session.

    Parameters
    ----------
    session : as its client calls it
    caller : who watches
    connections : uvicorn's: at shutdown it waits for those in it
    """

    def __init__(self, session: str, caller: Caller, connections: set[Any]) -> None:
        self.session = session
        self.caller = caller
        self.connections = connections
        self._name = caller.name(session)
        self._seen: deque[Event] = deque()
        self._waiting = 0  # observations in it
        self._missed = 0  # observations that were dropped from it
        self._timer: asyncio.TimerHandle | None = None
        self._write_paused = False
        self._transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Tell where the session is; what happens to it after that is shown."""
        self._transport = transport
        self.connections.add(self)
        self.caller.use.opened(self)
        self.caller.engine.metrics.sockets_opened += 1
        self.caller.use.opened(self)
        # Answered behind the wave that looks: nothing lies between the answer and what is seen.
        try:
            self.caller.submit(Inspect(self.session, self._greet))
        except CarryoverError as error:
            self._close(WSCloseCode.TRY_AGAIN_LATER, error.detail[:100])

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A watcher has nothing to say but that it leaves."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type in {WSMsgType.TEXT, WSMsgType.BINARY}:
            self._close(WSCloseCode.POLICY_VIOLATION, "a watch takes no messages: send to /stream")

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        """The watcher has gone, and costs nothing any more."""
        self._leave()
        self._transport = None
        self.caller.use.closed(self)

    def pause_writing(self) -> None:
        """The watcher does not read: events wait, and the oldest give way."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The watcher reads again."""
        self._write_paused = False
        self._flush()

    def shutdown(self) -> None:
        """Close with 1001 (uvicorn)."""
        self._close(WSCloseCode.GOING_AWAY, "the server is stopping")

    def revoked(self) -> None:
        """Close: the key is no longer good."""
        self._close(WSCloseCode.POLICY_VIOLATION, "the key is no longer good")

    def saw(self, event: Event) -> None:
        """Gather what happened; what comes within a moment leaves together."""
        self._seen.append(event)
        self._waiting += _size(event)
        while self._waiting > MOST_OBSERVATIONS and len(self._seen) > 1:
            size = _size(self._seen.popleft())
            self._waiting -= size
            self._missed += size
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._flush)

    def _greet(self, outcome: Any) -> None:
        if self._transport is None:
            return
        model = position = epoch = None
        if isinstance(outcome, SessionView):
            model, position, epoch = outcome.model, outcome.position, token(outcome.epoch)
        self._send({"watching": self.session, "model": model, "position": position, "epoch": epoch})
        self.caller.engine.watches.add(self._name, self)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._write_paused or not self._seen:
            return
        told: dict[str, Any] = {"events": list(self._seen)}
        if self._missed:
            told["missed"] = self._missed
        self._seen.clear()
        self._waiting = self._missed = 0
        self._send(told)

    def _send(self, told: dict[str, Any]) -> None:
        if self._transport is not None:
            data = frames.framed(orjson.dumps(told, option=NUMPY), text=True)
            self._transport.underlying_transport.write(data)

    def _leave(self) -> None:
        self.caller.engine.watches.remove(self._name, self)
        self.connections.discard(self)
        self.caller.use.closed(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self, code: WSCloseCode, why: str) -> None:
        self._flush()
        self._leave()
        if self._transport is not None:
            self._transport.send_close(code, why.encode())
            self._transport.disconnect()


def _size(event: Event) -> int:
    return len(event.get("observations", "-"))
