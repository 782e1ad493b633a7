"""What the head of a request must hold, and the head of a request whose offer of an upgrade is ignored."""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]  # names in lower case

HOP_BY_HOP = (b"upgrade", b"http2-settings")


class BadHead(Exception):
    """A request that is refused for its head alone: 400."""


def check_head(headers: Headers, version: str) -> None:
    """Return for a head whose meaning is clear to everybody who forwards it (RFC 9112, section 3.2).

    Raises
    ------
    BadHead
    """
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1:
        raise BadHead("a request has one Host header")
    if not hosts and version == "1.1":
        raise BadHead("a request of HTTP/1.1 needs a Host header")
    if names.count(b"authorization") > 1:
        raise BadHead("a request has at most one Authorization header")


def is_websocket_handshake(method: bytes, version: str, headers: Headers) -> bool:
    """Whether a request offers to become a WebSocket (RFC 6455, section 4.1), and has no body."""
    if method != b"GET" or version != "1.1":
        return False
    values = dict(headers)
    return (
        values.get(b"upgrade", b"").strip().lower() == b"websocket"
        and b"transfer-encoding" not in values
        and values.get(b"content-length", b"0").strip() == b"0"
    )


def head_without_upgrade(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The head as a client would send it that offers no upgrade."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() not in HOP_BY_HOP)
        if name not in HOP_BY_HOP:
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
