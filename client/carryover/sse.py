"""Server-sent events: parsed from pieces of any size (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from carryover.errors import NotCarryover, Unreachable

CONTENT = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two empty lines.

    kind : of the event; empty if it has none
    id : None if it has none
    data : None of a comment, and of an id alone
    """

    kind: str
    id: str | None
    data: str | None

    def document(self) -> dict[str, Any]:
        """The data as a JSON object.

        Raises
        ------
        NotCarryover : it is something else
        """
        try:
            found = json.loads(self.data or "")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise NotCarryover(f"an event of the stream has no JSON object: {str(self.data)[:80]!r}")
        return found


class Blocks:
    """Collects the pieces of a stream."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[Block]:
        """Return the blocks that are whole now.

        Raises
        ------
        Unreachable : the piece is empty, so the stream has ended
        NotCarryover : it is no text
        """
        if not piece:
            raise Unreachable("the server ended the stream of events")
        *blocks, self._rest = (self._rest + piece).split(b"\n\n")
        try:
            return [_block(block.decode()) for block in blocks]
        except UnicodeDecodeError:
            raise NotCarryover("the answer is no stream of events") from None


def _block(text: str) -> Block:
    fields = {}
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        fields[name] = value.removeprefix(" ")  # the name of a comment is empty
    return Block(fields.get("event", ""), fields.get("id"), fields.get("data"))
