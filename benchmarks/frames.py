"""A fast parser for the parts of HTTP/1.1 and WebSocket (RFC 6455) that split bytes into answers."""

from __future__ import annotations

from benchmarks.dialects import HOST

TEXT, BINARY = 0x81, 0x82
NO_MASK_EFFECT = b"\x00\x00\x00\x00"
"""A client must mask (RFC 6455, 5.3); with a key of zeros the payload stays as it is."""


class BadFrame(ValueError):
    """Bytes that are not a success: another status, a closing frame, a fragment."""


def upgrade_request(path: str) -> bytes:
    """Return the opening handshake for a route."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"host: {HOST}",
        "upgrade: websocket",
        "connection: Upgrade",
        "sec-websocket-version: 13",
        "sec-websocket-key: Y2FycnlvdmVyIGJlbmNobQ==",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def masked_frame(payload: bytes, text: bool) -> bytes:
    """Return a client's frame."""
    first = TEXT if text else BINARY
    size = len(payload)
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 1 << 16:
        head = bytes([first, 0xFE]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, 0xFF]) + size.to_bytes(8, "big")
    return head + NO_MASK_EFFECT + payload


def websocket_answers(data: bytes) -> tuple[list[bytes], bytes]:
    """Cut a server's bytes into the payloads of whole frames and the rest; pings and pongs are left out.

    Raises
    ------
    BadFrame
        When the server closes, or sends a fragment.
    """
    answers = []
    start = 0
    while len(data) - start >= 2:
        size, head = data[start + 1], 2
        if size == 126:
            size, head = int.from_bytes(data[start + 2 : start + 4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(data[start + 2 : start + 10], "big"), 10
        end = start + head + size
        if end > len(data):
            break
        if data[start] in (TEXT, BINARY):
            answers.append(data[start + head : end])
        elif data[start] not in (0x89, 0x8A):
            raise BadFrame(f"frame {data[start]:#x}: {data[start + head : end]!r}")
        start = end
    return answers, data[start:]


def http_answers(data: bytes) -> tuple[list[bytes], bytes]:
    """Cut a server's bytes into the bodies of whole 200 answers and the rest.

    Raises
    ------
    BadFrame
        When an answer has another status, or no content length.
    """
    answers: list[bytes] = []
    while True:
        blank = data.find(b"\r\n\r\n")
        if blank < 0:
            return answers, data
        head = data[:blank].lower()
        if not head.startswith(b"http/1.1 200"):
            raise BadFrame(f"not a 200: {data[:300]!r}")
        _, found, length = head.partition(b"content-length:")
        if not found:
            raise BadFrame(f"no content length: {head!r}")
        end = blank + 4 + int(length.partition(b"\r\n")[0])
        if end > len(data):
            return answers, data
        answers.append(data[blank + 4 : end])
        data = data[end:]
