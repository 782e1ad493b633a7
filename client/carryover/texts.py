"""The text that a session writes, as a plan over a stream of server-sent events (see `effects`).

Each event has an id, a position that the session has reached for good. After a lost connection the same
request is sent again with the id of the last event, and the server goes on behind it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from carryover import wire
from carryover.effects import CLOSE, MORE, Begin, Emit, Plan, Request, Sleep
from carryover.errors import CarryoverError, Unavailable, Unreachable, refusal
from carryover.plans import locate
from carryover.retry import Pauses, RetryPolicy
from carryover.sse import CONTENT, Blocks
from carryover.wire import Cursor


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text.

    position : of the session, or of its copy, behind the token
    token : its number
    text : what it stands for
    """

    position: int
    token: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class End:
    """The end of a text; `finish` is "length" or "stop"."""

    position: int
    finish: str


def request_fields(
    prompt: str | Sequence[int], steps: int, keep: bool, stop: Sequence[str | int], **options: Any
) -> dict[str, Any]:
    """Return the body of a request, without what is left at its default."""
    given = {name: value for name, value in options.items() if value is not None}
    fields: dict[str, Any] = {"steps": steps, "keep": keep, **given}
    if len(prompt):
        fields["prompt"] = prompt if isinstance(prompt, str) else [int(token) for token in prompt]
    if stop:
        fields["stop"] = [stop] if isinstance(stop, str) else list(stop)
    return fields


def generate(cursor: Cursor, fields: Mapping[str, Any], retry: RetryPolicy) -> Plan[None]:
    """Emit each token of a text, and its end."""
    yield from locate(cursor, retry)
    text, pauses = _Text(cursor, wire.generate(cursor, fields), fields["keep"]), Pauses(retry)
    try:
        while True:
            try:
                yield from _follow(text, pauses)
                return
            except (Unreachable, Unavailable) as error:
                failure: CarryoverError = error
            yield CLOSE
            yield Sleep(pauses.after(failure))
    except GeneratorExit:
        if text.keep:  # the server may have gone on by a slice
            cursor.invalidate()
        raise


def _follow(text: _Text, pauses: Pauses) -> Plan[None]:
    """Emit what comes over one connection."""
    request = text.rest()
    wire.check_stream(request, (yield Begin(request)))
    blocks = Blocks()
    while True:
        for block in blocks.feed((yield MORE)):
            if block.data is None:  # a comment, with which a proxy keeps the connection open
                continue
            data = block.document()
            if block.kind == "error":
                raise refusal(data)
            text.note(block.id or "", data["position"])
            pauses.progress()
            if block.kind == "done":
                yield CLOSE
                yield Emit(End(data["position"], data["finish"]))
                return
            yield Emit(Token(data["position"], data["token"], data["text"]))


@dataclass(slots=True)
class _Text:
    """How far a text has come.

    last : id of the newest event
    """

    cursor: Cursor
    request: Request
    keep: bool
    last: str | None = None

    def rest(self) -> Request:
        """Return the request for what is not there yet."""
        behind = {} if self.last is None else {"last-event-id": self.last}
        return replace(self.request, headers={"accept": CONTENT} | behind)

    def note(self, identity: str, position: int) -> None:
        """Note an event."""
        self.last = identity
        if self.keep:
            self.cursor.position, self.cursor.epoch = position, identity.partition(".")[0]
            self.cursor.model_confirmed = True


class TextStream:
    """The tokens of a text, as they are written. Iterate over it once.

    finish : why the text is complete, "length" or "stop"; None before
    """

    def __init__(self, events: Generator[Token | End, None, None]) -> None:
        self._events = events
        self.finish: str | None = None

    def __iter__(self) -> Iterator[Token]:
        for event in self._events:
            if isinstance(event, End):
                self.finish = event.finish
            else:
                yield event

    def read(self) -> str:
        """Wait for the whole text, and return it."""
        return "".join(map(str, self))

    def close(self) -> None:
        """Stop. The session has consumed what was read, and up to a slice more: it asks for its position."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncTextStream:
    """The tokens of a text, as they are written; see `TextStream`."""

    def __init__(self, events: AsyncGenerator[Token | End, None]) -> None:
        self._events = events
        self.finish: str | None = None

    async def __aiter__(self) -> AsyncIterator[Token]:
        async for event in self._events:
            if isinstance(event, End):
                self.finish = event.finish
            else:
                yield event

    async def read(self) -> str:
        """Wait for the whole text, and return it."""
        return "".join([token.text async for token in self])

    async def close(self) -> None:
        """Stop; see `TextStream.close`."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
