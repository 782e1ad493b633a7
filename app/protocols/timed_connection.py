"""Time limits of one HTTP connection: for requests, for unread answers, and for idleness.

There is one timer a connection. It is armed again only when it fires, not for every request.
"""

from __future__ import annotations

from typing import Any

from app.protocols.closing import ClosingProtocol

ABORT_SECONDS = 5.0
"""After which a connection that was closed is cut off, though its client has not read all of it."""


class TimedConnection(ClosingProtocol):
    """One connection with time limits."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._last_heard = 0.0
        self._unread_since: float | None = None  # since when answers lie unread in the transport

    def _is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._owes_answers or self._asgi_runs()

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    def _watch_idleness(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._lingering is None and not self.transport.is_closing():
            # In place of the parent's timer, which knows nothing of a body that does not come to its end.
            self._unset_keepalive_if_required()
            self._watch_idleness(self._patience)

    @property
    def _patience(self) -> float:
        return min(self.timeout_keep_alive, self.authenticator.settings.request_seconds)

    def timeout_keep_alive_handler(self) -> None:
        now, patience = self.loop.time(), self.authenticator.settings.request_seconds
        if self._unread_since is not None and now - self._unread_since >= patience:
            self.transport.abort()  # a close would wait for the client to read
        elif self._message_began is not None and now - self._message_began >= patience:
            self.refuse(408)
            if self._lingering is None:
                self._watch_idleness(self._patience)
        elif now - self._last_heard >= self.timeout_keep_alive and not self._is_busy():
            super().timeout_keep_alive_handler()
            self.loop.call_later(ABORT_SECONDS, self.transport.abort)
        else:
            self._watch_idleness(self._patience)
