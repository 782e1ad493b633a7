"""A stream: chunks out of a source, one answer each, whatever the connection does.

Over the session's socket while there is one, several chunks in flight; else a request a chunk. A connection
that breaks, a server that stops or has too much to do: pause, connect again, send again what has no answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from carryover import frames, line, plans, wire
from carryover.effects import CLOSE, PULL, Emit, Plan, Sleep
from carryover.errors import CarryoverError, NotCarryover, Unavailable, Unreachable, refusal
from carryover.line import Line, NoSocket
from carryover.numbers import Chunk
from carryover.retry import Patience, Pauses
from carryover.values import Answer
from carryover.window import Sent, Window
from carryover.wire import Cursor, Wanted


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach the server. socket: None, the socket if there is one; True, nothing else; False, never."""

    url: str
    key: str | None
    patience: Patience
    socket: bool | None = None


def stream(cursor: Cursor, wanted: Wanted, ahead: int, way: Way) -> Plan[None]:
    """Pull chunks until the source is empty, and emit an answer for each, in order."""
    window = Window(cursor, wanted, ahead)
    if cursor.created_with is not None:
        yield from plans.located(cursor, way.patience)
    try:
        if way.socket is False:
            yield from _by_requests(window, way)
            return
        try:
            yield from _by_socket(window, way)
        except NoSocket:
            if way.socket:
                raise
            yield from _by_requests(window, way)
    except GeneratorExit:
        if window.pending:  # consumed or not: the server knows
            cursor.lost()
        raise


def _by_requests(window: Window, way: Way) -> Plan[None]:
    cursor = window.cursor
    yield from plans.located(cursor, way.patience)
    while True:
        if not window.pending:
            chunk: Chunk | None = yield PULL
            if chunk is None:
                return
            window.push(chunk)
        chunk = window.pending[0].chunk
        reply = yield from plans.asked(wire.observe(cursor, chunk, window.wanted), way.patience)
        yield Emit(window.take(wire.answered(wire.document(reply), cursor, chunk)))


def _by_socket(window: Window, way: Way) -> Plan[None]:
    """One connection after the other, until the source is empty."""
    pauses, url = Pauses(way.patience), _socket_url(way.url, window.cursor)
    while True:
        try:
            connection = yield from line.opened(url, way.key)
            yield from _conversed(window, connection, pauses)
            return
        except (Unreachable, Unavailable) as trouble:
            pause = pauses.after(trouble)
        yield CLOSE
        yield Sleep(pause)


def _conversed(window: Window, connection: Line, pauses: Pauses) -> Plan[None]:
    """All that one connection carries."""
    window.learned(connection.hello)
    for sent in window.pending:
        yield from _send(window, sent, connection)
    more = True
    while more or window.pending:
        while more and window.has_room():
            chunk: Chunk | None = yield PULL
            more = chunk is not None
            if chunk is not None:
                yield from _send(window, window.push(chunk), connection)
        if window.pending:
            data, is_text = yield from connection.receive()
            answer = _answered(window, data, is_text)
            pauses.progress()
            yield Emit(window.take(answer))
    yield from connection.close()


def _send(window: Window, sent: Sent, connection: Line) -> Plan[None]:
    cursor, wanted = window.cursor, window.wanted
    # The first message names the model, which a binary one cannot: the server refuses another session's.
    named = sent.first and cursor.model is not None
    floats = sent.chunk.floats() if wanted.plain and not named else None
    if floats is not None:
        data = frames.message(floats, sent.at, cursor.epoch, wanted.horizon)
        yield from connection.send(data, text=False)
        return
    model = cursor.model if named else None
    text = wire.chunk_text(sent.chunk, sent.at, cursor.epoch, model, wanted)
    yield from connection.send(text.encode(), text=True)


def _answered(window: Window, data: bytes, is_text: bool) -> Answer:
    sent = window.pending[0]
    if not is_text:
        try:
            told = frames.answer(data, sent.chunk.flat)
        except ValueError as error:
            raise NotCarryover(str(error)) from None
    else:
        told = wire.read(data)
        if "predictions" not in told:
            raise _refused(told)
    answer = wire.answered(told, window.cursor, sent.chunk)
    if answer.position != sent.at + len(sent.chunk):
        raise NotCarryover(f"the answer is of position {answer.position}, not of the chunk at {sent.at}")
    return answer


def _refused(told: dict[str, object]) -> CarryoverError:
    return refusal(told) if "status" in told else NotCarryover("an answer without predictions")


def _socket_url(url: str, cursor: Cursor) -> str:
    """http://host/prefix -> ws://host/prefix/sessions/{id}/stream."""
    scheme, _, rest = url.partition("://")
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest.rstrip('/')}{cursor.path}/stream"
