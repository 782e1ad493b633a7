"""Bounds the bytes of every request's body."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import refusal
from app.codec.problems import too_large


class BodyLimit:
    """ASGI middleware: 413 for a body of more than `most` bytes, by its declared length or as it comes in."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self._most(scope)
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(declared) > most:
            await self._refuse(scope, receive, send, most)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise BodyTooLarge(most)
            return message

        await self.app(scope, counted, send)

    def _most(self, scope: Scope) -> int:
        asking = scope.get("carryover.caller")
        return self.most if asking is None else min(self.most, asking.most_bytes)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        # Not closed: that would reset the connection under a client that still writes, which then never
        # reads why. The server throws the rest of the body away as it comes in.
        await refusal(too_large(most), scope["path"])(scope, receive, send)


class BodyTooLarge(HTTPException):
    """An HTTPException, because FastAPI turns whatever else a body's reading raises into a 400."""

    def __init__(self, most: int) -> None:
        super().__init__(413)
        self.error = too_large(most)
