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


def stream(cursor: Cursor, wanted: Wanted, ahead: int, whole: bool, way: Way) -> Plan[None]:
    """Pull chunks until the source is empty, and emit an answer for each, in order.

    Parameters
    ----------
    ahead : chunks in flight at most
    whole : the source never waits
    """
    window = Window(cursor, wanted, ahead, whole)
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
        _put(window, sent, connection)
    more = True
    while more or window.pending:
        more = more and (yield from _filled(window, connection))
        yield from connection.flush()
        if not window.pending:
            break
        answers, refusal = _taken(window, (yield from connection.receive()))
        if answers:
            pauses.progress()
        if refusal is None and window.whole and more:
            # What is sent now is on its way while the caller looks at the answers.
            more = yield from _filled(window, connection)
            yield from connection.flush()
        for answer in answers:
            yield Emit(answer)
        if refusal is not None:
            raise refusal
    yield from connection.close()


def _filled(window: Window, connection: Line) -> Plan[bool]:
    """Queue chunks as long as there is room, and tell whether the source may have more."""
    while window.has_room():
        if not window.whole:  # it may take its time
            yield from connection.flush()
        chunk: Chunk | None = yield PULL
        if chunk is None:
            return False
        _put(window, window.push(chunk), connection)
    return True


def _taken(window: Window, messages: list[tuple[bytes, bool]]) -> tuple[list[Answer], CarryoverError | None]:
    """The answers in these messages, up to the first that is a refusal."""
    answers: list[Answer] = []
    try:
        for data, is_text in messages:
            answers.append(window.take(_answered(window, data, is_text)))
    except CarryoverError as error:
        return answers, error
    return answers, None


def _put(window: Window, sent: Sent, connection: Line) -> None:
    cursor, wanted = window.cursor, window.wanted
    # The first message names the model, which a binary one cannot: the server refuses another session's.
    named = sent.first and cursor.model is not None
    floats = sent.chunk.floats() if wanted.plain and not named else None
    if floats is not None:
        connection.put(frames.message(floats, sent.at, cursor.epoch, wanted.horizon), text=False)
        return
    model = cursor.model if named else None
    text = wire.chunk_text(sent.chunk, sent.at, cursor.epoch, model, wanted)
    connection.put(text.encode(), text=True)


def _answered(window: Window, data: bytes, is_text: bool) -> Answer:
    if not window.pending:
        raise NotCarryover("a message that answers nothing")
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
