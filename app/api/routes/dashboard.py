"""`/`: the dashboard; `/docs`: the page of the API.

Their files are read at start. The pages load nothing from another host.
"""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from app.dashboard import Asset

router = APIRouter(include_in_schema=False)

PAGE, DOCS = "index.html", "docs.html"
SECURITY_HEADERS = {
    "cache-control": "no-cache",  # may be stored, but is revalidated by its ETag
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "camera=(), geolocation=(), microphone=(self)",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@router.get("/")
async def dashboard_page(request: Request) -> Response:
    """The dashboard."""
    return _asset_response(request, request.app.state.dashboard[PAGE])


@router.get("/docs")
async def docs_page(request: Request) -> Response:
    """The page of the API."""
    return _asset_response(request, request.app.state.dashboard[DOCS])


@router.get("/dashboard/{name}")
async def dashboard_file(request: Request, name: str) -> Response:
    """A file of the pages: styles, scripts, the chart."""
    asset = request.app.state.dashboard.get(name)
    if asset is None:
        raise HTTPException(404)
    return _asset_response(request, asset)


def _asset_response(request: Request, asset: Asset) -> Response:
    headers = SECURITY_HEADERS | {"etag": asset.etag}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)
