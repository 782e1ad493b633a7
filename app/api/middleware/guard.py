"""Around every request that is not hot: its caller, host, origin and request id, and its line in the log.

A browser sends requests on behalf of whatever page it shows. A page of another origin is answered only where
the settings allow it, so that no web site can move the sessions of a server on its reader's own machine.

DNS rebinding makes such a page look like ours. The name of its site resolves to the site's own machine first,
then to 127.0.0.1. To the browser both are the same origin, so `Origin` equals `Host`, and a GET has no
`Origin`. The page cannot choose the name in `Host`. So a server without keys accepts as `Host` an IP address,
`localhost`, and the names in CARRYOVER_ALLOWED_HOSTS. That is checked here, on the hot route, and when a
socket is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.callers import CLIENT, Authenticator, Caller
from app.access.origins import TENANT_HEADER, check_host, is_allowed_origin
from app.api.errors import error_response, problem_response
from app.errors import CarryoverError, Forbidden
from app.observability import logs
from app.observability.metrics import Metrics
from app.observability.tracing import TRACEPARENT

log = logging.getLogger("carryover.access")

PUBLIC_PATHS = {
    "/", "/favicon.ico", "/docs", "/openapi.json", "/asyncapi.json",
    "/health/live", "/health/ready", "/health/balancer", "/v2", "/v2/health/live", "/v2/health/ready",
}  # fmt: skip
PUBLIC_FOLDERS = ("/dashboard/",)  # the page asks for the key, so it is served without
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
MONITOR_PATHS = {"/metrics"}
ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
ALLOWED_HEADERS = f"authorization, content-type, accept, x-request-id, traceparent, {TENANT_HEADER}"
SECURITY_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


def get_caller(request: Request) -> Caller:
    """The caller of a request, which a route uses in place of the engine."""
    caller: Caller = request.scope["carryover.caller"]
    return caller


class Guard:
    """ASGI middleware, the outermost of ours.

    Parameters
    ----------
    allowed_origins : other than the server's own, of pages that may call it
    allowed_hosts : accepted in `Host` beside IP addresses; None: any
    log_requests : a line for each
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        metrics: Metrics,
        allowed_origins: Iterable[str],
        allowed_hosts: frozenset[str] | None,
        log_requests: bool,
    ) -> None:
        self.app = app
        self.authenticator = authenticator
        self.metrics = metrics
        self.allowed_origins = frozenset(allowed_origins)
        self.allowed_hosts = allowed_hosts
        self.log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start_time, headers = perf_counter(), Headers(raw=scope["headers"])
        request_id = logs.request_id(headers.get("x-request-id"), headers.get("traceparent"))
        token = logs.REQUEST_ID.set(request_id)
        TRACEPARENT.set(headers.get("traceparent", ""))
        CLIENT.set(scope.get("carryover.client"))
        status = 500  # unless something else is answered: a crash is answered further out

        async def send_dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(MutableHeaders(raw=message["headers"]), headers.get("origin"), request_id)
            await send(message)

        try:
            if headers.get("origin") in self.allowed_origins and "access-control-request-method" in headers:
                await _preflight(scope, receive, send_dressed)
            else:
                await self._authorize(scope, receive, send_dressed, headers)
        finally:
            self._record(scope, status, perf_counter() - start_time, request_id)
            logs.REQUEST_ID.reset(token)

    async def _authorize(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        try:
            check_host(headers.get("host"), self.allowed_hosts)
            self._check_origin(scope["method"], headers)
            scope["carryover.caller"] = self._caller(scope["path"], headers)
        except CarryoverError as error:
            self.metrics.record_refusal(error)
            await error_response(error, scope["path"])(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _caller(self, path: str, headers: Headers) -> Caller | None:
        if path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS):
            return None
        authorization = headers.get("authorization")
        caller = self.authenticator.authenticate(
            None if authorization is None else authorization.encode("latin-1"), headers.get(TENANT_HEADER)
        )
        caller.require_role("monitor" if path in MONITOR_PATHS else "read")
        return caller

    def _check_origin(self, method: str, headers: Headers) -> None:
        origin = headers.get("origin")
        if (
            origin is not None
            and method not in SAFE_METHODS
            and not is_allowed_origin(origin, headers.get("host"), self.allowed_origins)
        ):
            raise Forbidden("pages of another origin may not call this server: see CARRYOVER_ALLOWED_ORIGINS")

    def _dress(self, headers: MutableHeaders, origin: str | None, request_id: str) -> None:
        headers["x-request-id"] = request_id
        if "location" in headers:
            headers["location"] = _local(headers["location"])
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        if origin in self.allowed_origins and origin is not None:
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = "location, retry-after, x-request-id"
        if self.allowed_origins:
            headers.add_vary_header("origin")

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self.metrics.record_request(route, status, seconds)
        if self.log_requests:
            self._log(scope, route, status, seconds, request_id)

    def _log(self, scope: Scope, route: str, status: int, seconds: float, request_id: str) -> None:
        fields: dict[str, Any] = {"method": scope["method"], "route": route, "status": status}
        fields["request_id"] = request_id
        fields["ms"] = round(1000 * seconds, 3)
        caller: Caller | None = scope.get("carryover.caller")
        if caller is not None and caller.key is not None:
            fields |= {"key": caller.key.name, "tenant": caller.tenant}
        log.info("request", extra=fields)


def _local(location: str) -> str:
    """A redirect's target without its host, which Starlette takes from the request's `Host`."""
    target = urlsplit(location)
    path = "/" + target.path.lstrip("/")  # two slashes would begin a host
    return f"{path}?{target.query}" if target.query else path


async def _preflight(scope: Scope, receive: Receive, send: Send) -> None:
    response = problem_response(204, {}, None)
    response.body = b""
    response.headers["access-control-allow-methods"] = ALLOWED_METHODS
    response.headers["access-control-allow-headers"] = ALLOWED_HEADERS
    response.headers["access-control-max-age"] = "600"
    response.headers["content-length"] = "0"
    await response(scope, receive, send)
