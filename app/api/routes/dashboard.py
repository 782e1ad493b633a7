"""`/`: the dashboard; `/docs`: the page of the API.

Their files are read at start; nothing on them comes from another host.
"""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from app.dashboard import Asset

router = APIRouter(include_in_schema=False)

PAGE, DOCS = "index.html", "docs.html"
HEADERS = {
    "cache-control": "no-cache",  # kept, and asked for again by its tag
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@router.get("/")
async def page(request: Request) -> Response:
    """The page."""
    return _sent(request, request.app.state.dashboard[PAGE])


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The page of the API."""
    return _sent(request, request.app.state.dashboard[DOCS])


@router.get("/dashboard/{name}")
async def file(request: Request, name: str) -> Response:
    """What the pages load: styles, scripts, the chart."""
    found = request.app.state.dashboard.get(name)
    if found is None:
        raise HTTPException(404)
    return _sent(request, found)


def _sent(request: Request, asset: Asset) -> Response:
    headers = HEADERS | {"etag": asset.tag}
    if request.headers.get("if-none-match") == asset.tag:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)
