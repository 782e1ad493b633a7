"""Puts the fragments of a WebSocket message together (RFC 6455, section 5.4)."""

from __future__ import annotations

from picows import WSCloseCode, WSFrame, WSMsgType

MAX_FRAGMENTS = 16_384
"""Of one message: 8 MiB in pieces of 512 bytes."""


class BadFragment(Exception):
    """A frame that no message can contain. Closes the socket.

    code : to close with
    reason : at most 123 bytes of UTF-8, as a close frame holds
    """

    def __init__(self, code: WSCloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class MessageAssembler:
    """The message whose fragments are coming in. Each fragment costs the same, however many there were.

    Parameters
    ----------
    max_bytes : of one message
    """

    __slots__ = ("_kind", "_length", "_max_bytes", "_parts")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._length = 0
        self._kind = WSMsgType.TEXT

    @property
    def is_empty(self) -> bool:
        """Whether no message has begun."""
        return not self._parts

    def add(self, frame: WSFrame) -> tuple[bytes, WSMsgType] | None:
        """Add a text, binary or continuation frame. Returns the message and its kind once it is whole.

        Raises
        ------
        BadFragment : out of place, too long, or one too many
        """
        kind = frame.msg_type
        if (kind == WSMsgType.CONTINUATION) != bool(self._parts):
            raise BadFragment(WSCloseCode.PROTOCOL_ERROR, "a fragment out of place")
        if kind != WSMsgType.CONTINUATION:
            self._kind = kind
        part = frame.get_payload_as_bytes()
        self._length += len(part)
        if self._length > self._max_bytes:
            raise BadFragment(WSCloseCode.MESSAGE_TOO_BIG, f"a message has at most {self._max_bytes} bytes")
        if len(self._parts) >= MAX_FRAGMENTS:
            raise BadFragment(WSCloseCode.MESSAGE_TOO_BIG, f"a message has at most {MAX_FRAGMENTS} fragments")
        self._parts.append(part)
        if not frame.fin:
            return None
        message = b"".join(self._parts)
        self._parts, self._length = [], 0
        return message, self._kind
