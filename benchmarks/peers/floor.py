"""The floor: an asyncio protocol that answers each POST with its own body, and knows no more HTTP than that.

``python -m benchmarks.peers.floor PORT``
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Echo(asyncio.Protocol):
    """One connection; a request may arrive in pieces."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self.waiting = b""

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        head, blank, body = self.waiting.partition(b"\r\n\r\n")
        if blank and len(body) >= content_length(head):
            self.waiting = b""
            self.transport.write(ANSWER % (len(body), body))


def content_length(head: bytes) -> int:
    """Read the length of the body that follows a request's head; zero when it names none."""
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
