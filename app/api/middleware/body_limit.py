"""Request bodies: none grows beyond its limit, and the small ones become shapes.

A body is JSON whatever its declared type says, because `curl -d` declares a form.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import refusal
from app.api.schemas import Body
from app.errors import Malformed, TooLarge, Unprocessable

Shape = TypeVar("Shape", bound=Body)


async def read(request: Request, shape: type[Shape]) -> Shape:
    """The request's body as this shape; an empty body is an empty object.

    Raises
    ------
    Malformed : not JSON
    Unprocessable : naming the field
    """
    try:
        return shape.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        raise _complaint(error) from None


def documented(shape: type[Body], required: bool = False) -> dict[str, Any]:
    """What a route's `openapi_extra` says of the body that it reads as this shape."""
    schema = shape.model_json_schema()
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


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


def too_large(most: int) -> TooLarge:
    """The refusal of a body over the limit."""
    return TooLarge(f"a body has at most {most} bytes", limit=most)


def _complaint(error: ValidationError) -> Malformed | Unprocessable:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return Malformed(f"the body is not JSON: {first['ctx']['error']}")
    field = ".".join(str(part) for part in first["loc"])
    return Unprocessable(f"{field}: {first['msg']}" if field else first["msg"], field=field)
