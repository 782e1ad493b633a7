"""Around every request that is not hot: who asks, from which page, under which id, and what came of it.

A browser sends requests on behalf of whatever page it shows. A page of another origin is answered only where
the settings allow it, so that no web site can move the sessions of a server on its reader's own machine.

DNS rebinding makes such a page look like ours. The name of its site resolves to the site's own machine first,
then to 127.0.0.1; to the browser both are one origin, so `Origin` equals `Host`, and a GET has no `Origin`.
The one thing that the page cannot choose is the name in `Host`. So where nobody needs a key, on the reader's
own machine, a request has to call us by an address, which nobody looks up, by `localhost`, or by a name of
the settings. That is checked here and where a socket is opened. The hot route need not: it takes POST alone,
which no browser sends without `Origin`, and it leaves what has an `Origin` to the router, and so to us.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable
from time import perf_counter
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.callers import Caller, Door
from app.api.errors import answer, refusal
from app.errors import CarryoverError, Forbidden, Misdirected
from app.observability import logs
from app.observability.metrics import Metrics
from app.observability.tracing import PARENT

log = logging.getLogger("carryover.access")

TENANT_HEADER = "carryover-tenant"
PUBLIC = {
    "/", "/favicon.ico", "/docs", "/openapi.json", "/health/live", "/health/ready", "/health/balancer",
    "/v2", "/v2/health/live", "/v2/health/ready",
}  # fmt: skip
PUBLIC_FOLDERS = ("/dashboard/",)  # a page that asks for the key must itself be had without one
HOST = re.compile(r"(?:\[([0-9a-f.:]+)\]|([^\[\]:]+))(?::[0-9]*)?", re.IGNORECASE)  # RFC 9110, section 7.2
SAFE = {"GET", "HEAD", "OPTIONS"}
MONITORS = {"/metrics"}
ALLOWED_METHODS = "GET, HEAD, POST, PUT, DELETE"
ALLOWED_HEADERS = f"authorization, content-type, accept, x-request-id, traceparent, {TENANT_HEADER}"
HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


def caller(request: Request) -> Caller:
    """Who asks: what a route has in place of the engine."""
    told: Caller = request.scope["carryover.caller"]
    return told


class Guard:
    """ASGI middleware, the outermost of ours.

    Parameters
    ----------
    allowed : origins, other than the server's own, whose pages may call it
    hosts : names that a request may call the server by; None: any
    logs_requests : a line for each
    """

    def __init__(
        self,
        app: ASGIApp,
        door: Door,
        metrics: Metrics,
        allowed: Iterable[str],
        hosts: frozenset[str] | None,
        logs_requests: bool,
    ) -> None:
        self.app = app
        self.door = door
        self.metrics = metrics
        self.allowed = frozenset(allowed)
        self.hosts = hosts
        self.logs_requests = logs_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, told = perf_counter(), Headers(raw=scope["headers"])
        request_id = logs.request_id(told.get("x-request-id"), told.get("traceparent"))
        token = logs.REQUEST_ID.set(request_id)
        PARENT.set(told.get("traceparent", ""))
        status = 500  # unless something else is answered: a crash is answered further out

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(MutableHeaders(raw=message["headers"]), told.get("origin"), request_id)
            await send(message)

        try:
            if told.get("origin") in self.allowed and "access-control-request-method" in told:
                await _preflight(scope, receive, dressed)
            else:
                await self._let_in(scope, receive, dressed, told)
        finally:
            self._note(scope, status, perf_counter() - began, request_id)
            logs.REQUEST_ID.reset(token)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, told: Headers) -> None:
        try:
            check_host(told.get("host"), self.hosts)
            self._check_origin(scope["method"], told)
            scope["carryover.caller"] = self._caller(scope["path"], told)
        except CarryoverError as error:
            self.metrics.refused(error)
            await refusal(error, scope["path"])(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _caller(self, path: str, told: Headers) -> Caller | None:
        if path in PUBLIC or path.startswith(PUBLIC_FOLDERS):
            return None
        authorization = told.get("authorization")
        found = self.door.caller(
            None if authorization is None else authorization.encode("latin-1"), told.get(TENANT_HEADER)
        )
        found.may("monitor" if path in MONITORS else "read")
        return found

    def _check_origin(self, method: str, told: Headers) -> None:
        origin = told.get("origin")
        if (
            origin is not None
            and method not in SAFE
            and not same_origin(origin, told.get("host"), self.allowed)
        ):
            raise Forbidden("pages of another origin may not call this server: see CARRYOVER_ALLOWED_ORIGINS")

    def _dress(self, headers: MutableHeaders, origin: str | None, request_id: str) -> None:
        headers["x-request-id"] = request_id
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if origin in self.allowed and origin is not None:
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = "location, retry-after, x-request-id"
        if self.allowed:
            headers.add_vary_header("origin")

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self.metrics.answered(route, status, seconds)
        if self.logs_requests:
            self._log(scope, route, status, seconds, request_id)

    def _log(self, scope: Scope, route: str, status: int, seconds: float, request_id: str) -> None:
        fields: dict[str, Any] = {"method": scope["method"], "route": route, "status": status}
        fields["request_id"] = request_id
        fields["ms"] = round(1000 * seconds, 3)
        found: Caller | None = scope.get("carryover.caller")
        if found is not None and found.key is not None:
            fields |= {"key": found.key.name, "tenant": found.tenant}
        log.info("request", extra=fields)


def same_origin(origin: str | None, host: str | None, allowed: Iterable[str]) -> bool:
    """Whether a page of this origin, or who is none, may call a server that was asked for as `host`."""
    return origin is None or origin in allowed or origin.partition("://")[2] == host


def check_host(host: str | None, names: frozenset[str] | None) -> None:
    """Nothing, for a request that may call this server so. One without a `Host` is no browser's.

    Raises
    ------
    Misdirected
    """
    if host is None or names is None:
        return
    told = HOST.fullmatch(host)
    name = (told[1] or told[2]).lower() if told is not None else ""
    if name in names:
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise Misdirected(
            f"without keys this server answers to localhost and to addresses, not to {host!r:.100}: "
            "see CARRYOVER_ALLOWED_HOSTS"
        ) from None


async def _preflight(scope: Scope, receive: Receive, send: Send) -> None:
    response = answer(204, {}, None)
    response.body = b""
    response.headers["access-control-allow-methods"] = ALLOWED_METHODS
    response.headers["access-control-allow-headers"] = ALLOWED_HEADERS
    response.headers["access-control-max-age"] = "600"
    response.headers["content-length"] = "0"
    await response(scope, receive, send)
