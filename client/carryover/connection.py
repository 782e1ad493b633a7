"""Connections to the server, blocking and asynchronous. A failed connection raises `Unreachable`."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import anyio
import anyio.abc
import httpx

from carryover import effects
from carryover.effects import Reply
from carryover.errors import TlsFailed, Unreachable

DEFAULT_URL = "http://127.0.0.1:8000"
BROKEN = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)
LOST = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)
PASSING_TLS_ERRORS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
READ_BYTES = 65_536


class Connection:
    """A blocking connection for the bytes of a WebSocket. `OSError` becomes `Unreachable`."""

    def __init__(self, url: str, timeout: float, verify: ssl.SSLContext | None) -> None:
        self.url = url
        self.timeout = timeout
        self.verify = verify
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connect; an older connection is closed."""
        self.close()
        host, port, secure = address(self.url)
        try:
            plain = socket.create_connection((host, port), timeout=self.timeout)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = self.verify or ssl.create_default_context() if secure else None
            self._socket = context.wrap_socket(plain, server_hostname=host) if context else plain
        except OSError as error:
            raise not_connected(self.url, error) from error

    def write(self, data: bytes) -> None:
        """Send all bytes."""
        try:
            self._connected().sendall(data)
        except OSError as error:
            raise unreachable(self.url, error) from error

    def read(self) -> bytes:
        """Wait for at least one byte."""
        try:
            data = self._connected().recv(READ_BYTES)
        except OSError as error:
            raise unreachable(self.url, error) from error
        if not data:
            raise Unreachable(f"{self.url} closed the connection")
        return data

    def close(self) -> None:
        """Close it, if it is open."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise Unreachable(f"the connection to {self.url} is closed")
        return self._socket


class AsyncConnection:
    """The asynchronous connection, for asyncio and trio."""

    def __init__(self, url: str, timeout: float, verify: ssl.SSLContext | None) -> None:
        self.url = url
        self.timeout = timeout
        self.verify = verify
        self._stream: anyio.abc.ByteStream | None = None

    async def open(self) -> None:
        """Connect; an older connection is closed."""
        await self.close()
        host, port, secure = address(self.url)
        with _translate_errors(self.url, not_connected):
            with anyio.fail_after(self.timeout):
                if secure:
                    context = self.verify or ssl.create_default_context()
                    self._stream = await anyio.connect_tcp(
                        host, port, ssl_context=context, tls_standard_compatible=False
                    )
                else:
                    self._stream = await anyio.connect_tcp(host, port)

    async def write(self, data: bytes) -> None:
        """Send all bytes."""
        with _translate_errors(self.url), anyio.fail_after(self.timeout):
            await self._connected().send(data)

    async def read(self) -> bytes:
        """Wait for at least one byte."""
        with _translate_errors(self.url), anyio.fail_after(self.timeout):
            return await self._connected().receive(READ_BYTES)

    async def close(self) -> None:
        """Close it, if it is open."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with anyio.CancelScope(shield=True), contextlib.suppress(OSError, *LOST):
                await anyio.aclose_forcefully(stream)

    def _connected(self) -> anyio.abc.ByteStream:
        if self._stream is None:
            raise Unreachable(f"the connection to {self.url} is closed")
        return self._stream


class AnswerInPieces:
    """A blocking HTTP request whose answer is read as it comes."""

    def __init__(self, http: httpx.Client, url: str) -> None:
        self._http, self._url = http, url
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def begin(self, request: effects.Request) -> Reply:
        """Send a request; an older answer is closed. The reply has a body unless it succeeded."""
        self.close()
        try:
            sent = self._http.build_request(**request_options(request))
            self._response = response = self._http.send(sent, stream=True)
            if not response.is_success:
                response.read()
                return reply_of(response)
            self._pieces = response.iter_bytes()
        except BROKEN as error:
            raise unreachable(self._url, error) from error
        return Reply(response.status_code, b"", kind=response.headers.get("content-type", ""))

    def more(self) -> bytes:
        """Wait for the next piece; nothing at the end."""
        try:
            return next(self._pieces, b"")
        except BROKEN as error:
            raise unreachable(self._url, error) from error

    def close(self) -> None:
        """Close the answer, if it is open."""
        if self._response is not None:
            self._response.close()
            self._response = None


class AsyncAnswerInPieces:
    """The asynchronous one."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http, self._url = http, url
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def begin(self, request: effects.Request) -> Reply:
        """Send a request; an older answer is closed. The reply has a body unless it succeeded."""
        await self.close()
        try:
            sent = self._http.build_request(**request_options(request))
            self._response = response = await self._http.send(sent, stream=True)
            if not response.is_success:
                await response.aread()
                return reply_of(response)
            self._pieces = response.aiter_bytes()
        except BROKEN as error:
            raise unreachable(self._url, error) from error
        return Reply(response.status_code, b"", kind=response.headers.get("content-type", ""))

    async def more(self) -> bytes:
        """Wait for the next piece; nothing at the end."""
        try:
            return b"" if self._pieces is None else await anext(self._pieces, b"")
        except BROKEN as error:
            raise unreachable(self._url, error) from error

    async def close(self) -> None:
        """Close the answer, if it is open."""
        if self._response is not None:
            response, self._response = self._response, None
            with anyio.CancelScope(shield=True):
                await response.aclose()


@contextlib.contextmanager
def _translate_errors(
    url: str, translate: Callable[[str, Exception], Unreachable] | None = None
) -> Iterator[None]:
    try:
        yield
    except (OSError, *LOST) as error:
        raise (translate or unreachable)(url, error) from error


def server_and_key(url: str | None, key: str | None) -> tuple[str, str | None]:
    """Address and key as given, else as `CARRYOVER_URL` and `CARRYOVER_KEY_FILE` say.

    An empty key means no key, whatever the environment says.

    Raises
    ------
    ValueError : the file of the key has no key
    """
    url = url or os.environ.get("CARRYOVER_URL") or DEFAULT_URL
    file = os.environ.get("CARRYOVER_KEY_FILE")
    if key is None and file:
        key = read_key(file, f"CARRYOVER_KEY_FILE={file}")
    return url, key or None


def read_key(file: str | Path, name: str) -> str:
    """Read the token of an API key.

    Parameters
    ----------
    name : of the file, for an error

    Raises
    ------
    ValueError : the file cannot be read, or has something else
    """
    try:
        token = Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"{name} cannot be read: {reason}") from error
    if not token:
        raise ValueError(f"{name} is empty: write the token of an API key into the file")
    if not (token.isascii() and token.isprintable()):
        raise ValueError(f"{name} is no key: the file must have the token of an API key and nothing else")
    return token


def http_options(url: str, key: str | None, timeout: float, verify: ssl.SSLContext | None) -> dict[str, Any]:
    """Return the arguments of an httpx client, blocking or asynchronous.

    Raises
    ------
    ValueError : the URL is not http:// or https://
    """
    try:
        scheme = httpx.URL(url).scheme
    except httpx.InvalidURL:
        scheme = ""
    if scheme not in ("http", "https"):
        raise ValueError(f"{url!r} is not an http:// or https:// URL")
    headers = {"user-agent": "carryover-client"} | ({} if key is None else {"authorization": f"Bearer {key}"})
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
    return {
        "base_url": url,
        "headers": headers,
        "timeout": timeout,
        "limits": limits,
        "verify": True if verify is None else verify,
    }


def request_options(request: effects.Request) -> dict[str, Any]:
    """Return the arguments of httpx's `request`."""
    options: dict[str, Any] = {"method": request.method, "url": request.path}
    if request.query is not None:
        options["params"] = request.query
    if request.body is not None:
        options |= {"content": request.body, "headers": {"content-type": request.kind}}
    if request.headers is not None:
        options["headers"] = {**options.get("headers", {}), **request.headers}
    return options


def reply_of(response: httpx.Response) -> Reply:
    """Convert httpx's response."""
    headers, location = response.headers, None
    if response.has_redirect_location:
        location = urljoin(str(response.url), headers["location"])
    return Reply(response.status_code, response.content, headers.get("retry-after"), location)


def unreachable(url: str, error: Exception) -> Unreachable:
    """Return the error for a connection that failed."""
    if isinstance(error, httpx.ConnectError):
        return not_connected(url, error)
    return _no_answer(url, error)


def not_connected(url: str, error: Exception) -> Unreachable:
    """Return the error for a connection that was not made."""
    failure = _lasting_tls_error(error)
    if failure is None:
        return _no_answer(url, error)
    if isinstance(failure, ssl.SSLCertVerificationError):
        return TlsFailed(
            f"the certificate of {url} does not verify: {failure.verify_message or failure}. If you trust "
            "it, name a file with the certificate of its authority in the variable SSL_CERT_FILE"
        )
    return TlsFailed(f"no TLS with {url}: {failure}. Without TLS the address begins with http://")


def _lasting_tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error behind an error, unless it is that of a server that stops or starts."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    if isinstance(error, PASSING_TLS_ERRORS) or "INTERNAL_ERROR" in (getattr(error, "reason", None) or ""):
        return None
    return error


def _no_answer(url: str, error: Exception) -> Unreachable:
    return Unreachable(f"no answer from {url}: {str(error) or type(error).__name__}; is the server running?")


def address(url: str) -> tuple[str, int, bool]:
    """Return host, port, and whether the URL asks for TLS."""
    parsed = httpx.URL(url)
    secure = parsed.scheme == "https"
    return parsed.host, parsed.port or (443 if secure else 80), secure
