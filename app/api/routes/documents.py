"""`/asyncapi.json`: the document of the sockets. FastAPI serves `/openapi.json` itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from app.access.callers import Authenticator
from app.api.asyncapi import asyncapi_document

router = APIRouter(include_in_schema=False)


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
