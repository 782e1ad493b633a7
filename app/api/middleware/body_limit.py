"""Bounds the bytes of every request's body."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import error_response
from app.codec.problems import body_too_large_error


class BodyLimit:
    """ASGI middleware: 413 for a body over `max_bytes`, by its declared length or its actual size."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes = self._max_bytes(scope)
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(declared) > max_bytes:
            await self._refuse(scope, receive, send, max_bytes)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise BodyTooLarge(max_bytes)
            return message

        await self.app(scope, counted, send)

    def _max_bytes(self, scope: Scope) -> int:
        caller = scope.get("carryover.caller")
        return self.max_bytes if caller is None else min(self.max_bytes, caller.max_bytes)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, max_bytes: int) -> None:
        # The connection stays open and the server discards the rest of the body. To close it would reset
        # the connection while the client still writes, and the client would never read the answer.
        await error_response(body_too_large_error(max_bytes), scope["path"])(scope, receive, send)


class BodyTooLarge(HTTPException):
    """An HTTPException, because FastAPI turns any other error of reading a body into a 400."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(413)
        self.error = body_too_large_error(max_bytes)
