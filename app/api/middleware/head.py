"""HEAD on every route that has GET."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

IS_HEAD = "carryover.head"  # in the scope of a request that is answered as GET: its body is not sent


class HeadRequests:
    """ASGI middleware: answers HEAD with the status and the headers of GET."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        # A copy, because the server, which leaves out the body, looks at the method, too.
        inner: Scope = {**scope, "method": "GET", IS_HEAD: True}
        try:
            await self.app(inner, receive, send)
        finally:
            if "route" in inner:
                scope["route"] = inner["route"]  # for metrics and the access log
