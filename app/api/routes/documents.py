"""`/openapi.json`, and `/asyncapi.json`: the document of the sockets."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from app.access.callers import Authenticator
from app.api.asyncapi import asyncapi_document
from app.api.document import OpenApiDocument

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The document of every route. A thread makes it: it takes a quarter of a second at first."""
    document: OpenApiDocument = request.app.openapi
    return Response(await asyncio.to_thread(document.encode), media_type="application/json")


@router.get("/asyncapi.json")
async def asyncapi(request: Request) -> dict[str, Any]:
    """The messages of the sockets, at the address that the client uses."""
    authenticator: Authenticator = request.app.state.authenticator
    return asyncapi_document(
        request.app.version,
        request.url.netloc,
        secure=request.url.scheme == "https",
        needs_key=authenticator.key_ring is not None,
    )
