"""Bounds the bytes of every request's body."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import error_response
from app.codec.problems import body_too_large_error


class BodyLimit:
    """ASGI middleware: 413 for a body over `max_bytes`, by its declared length or as it comes in."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes = self._most(scope)
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

    def _most(self, scope: Scope) -> int:
        asking = scope.get("carryover.caller")
        return self.max_bytes if asking is None else min(self.max_bytes, asking.max_bytes)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, max_bytes: int) -> None:
        # Not closed: that would reset the connection under a client that still writes, which then never
        # reads why. The server throws the rest of the body away as it comes in.
        await error_response(body_too_large_error(max_bytes), scope["path"])(scope, receive, send)


class BodyTooLarge(HTTPException):
    """An HTTPException, because FastAPI turns whatever else a body's reading raises into a 400."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(413)
        self.error = body_too_large_error(max_bytes)
