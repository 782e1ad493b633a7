"""A stream: it takes chunks from a source and emits an answer for each, across failed connections.

It uses the session's socket, with several chunks in flight, or else one request per chunk. If the connection
fails, or the server stops or is overloaded, the stream pauses, connects again, and sends every unanswered
chunk again.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from carryover import frames, plans, resuming, session_socket, wire
from carryover.effects import CLOSE, PULL, Emit, Plan, Sleep
from carryover.errors import (
    CarryoverError,
    NotCarryover,
    Problem,
    Unavailable,
    Unreachable,
    place_in_stream,
    refusal,
)
from carryover.observations import Chunk
from carryover.resuming import Resume
from carryover.retry import Pauses, RetryPolicy
from carryover.session_socket import SessionSocket, SocketUnavailable
from carryover.values import Answer
from carryover.window import Sent, Window
from carryover.wire import ChunkOptions, Cursor


@dataclass(frozen=True, slots=True)
class StreamTarget:
    """How to reach the server.

    socket : True: only the socket; False: only requests; None: the socket if possible
    """

    url: str
    key: str | None
    retry: RetryPolicy
    socket: bool | None = None


def stream(
    cursor: Cursor,
    options: ChunkOptions,
    max_in_flight: int,
    in_memory: bool,
    target: StreamTarget,
    resume: Resume | None = None,
) -> Plan[None]:
    """Pull chunks until the source is empty, and emit an answer for each, in order.

    Parameters
    ----------
    max_in_flight : the most chunks in flight
    in_memory : reading the source never blocks
    resume : go on with a source that was interrupted; else all its rows are new
    """
    window = Window(cursor, options, max_in_flight, in_memory, None if resume is None else resume.start)
    if cursor.creation_options is not None:
        yield from plans.locate(cursor, target.retry)
    if resume is not None:
        rest = yield from resuming.skip_applied(cursor, options, resume, target.retry)
        if rest is not None:
            window.push(rest)
    try:
        yield from _stream_window(window, target)
    except Problem as error:
        if window.pending:
            place_in_stream(error, window.pending[0].at - (window.start or 0))
        raise
    except GeneratorExit:
        if window.pending:  # only the server knows whether they were applied
            cursor.invalidate()
        raise


def _stream_window(window: Window, target: StreamTarget) -> Plan[None]:
    if target.socket is False or (target.socket is None and _uses_proxy(target.url)):
        yield from _stream_requests(window, target)
        return
    try:
        yield from _stream_socket(window, target)
    except SocketUnavailable:
        if target.socket:
            raise
        yield from _stream_requests(window, target)


def _stream_requests(window: Window, target: StreamTarget) -> Plan[None]:
    cursor = window.cursor
    yield from plans.locate(cursor, target.retry)
    while True:
        if not window.pending:
            chunk: Chunk | None = yield PULL
            if chunk is None:
                return
            window.push(chunk)
        chunk = window.pending[0].chunk
        reply = yield from plans.send(wire.observe(cursor, chunk, window.options), target.retry)
        yield Emit(window.take(wire.parse_answer(wire.reply_object(reply), cursor, chunk)))


def _stream_socket(window: Window, target: StreamTarget) -> Plan[None]:
    """Use one connection after another, until the source is empty."""
    pauses, url = Pauses(target.retry), _socket_url(target.url, window.cursor)
    while True:
        try:
            connection = yield from session_socket.open_socket(url, target.key)
            yield from _serve_connection(window, connection, pauses)
            return
        except (Unreachable, Unavailable) as error:
            pause = pauses.after(error)
        yield CLOSE
        yield Sleep(pause)


def _serve_connection(window: Window, connection: SessionSocket, pauses: Pauses) -> Plan[None]:
    """Stream over one connection, until the source is empty or an answer is a refusal."""
    window.apply_hello(connection.hello)
    for sent in window.pending:
        _send_chunk(window, sent, connection)
    more = True
    while more or window.pending:
        more = more and (yield from _fill(window, connection))
        yield from connection.flush()
        if not window.pending:
            break
        answers, refusal = _take_answers(window, (yield from connection.receive()))
        if answers:
            pauses.progress()
        if refusal is None and window.in_memory and more:
            # Sent before the answers are emitted: the server works while the caller uses them.
            more = yield from _fill(window, connection)
            yield from connection.flush()
        for answer in answers:
            yield Emit(answer)
        if refusal is not None:
            raise refusal
    yield from connection.close()


def _fill(window: Window, connection: SessionSocket) -> Plan[bool]:
    """Queue chunks while the window has room, and return whether the source may have more."""
    while window.has_room():
        if not window.in_memory:  # reading the source may block: send the queued chunks first
            yield from connection.flush()
        chunk: Chunk | None = yield PULL
        if chunk is None:
            return False
        _send_chunk(window, window.push(chunk), connection)
    return True


def _take_answers(
    window: Window, messages: list[tuple[bytes, bool]]
) -> tuple[list[Answer], CarryoverError | None]:
    """Return the answers in these messages up to the first refusal, and that refusal."""
    answers: list[Answer] = []
    try:
        for data, is_text in messages:
            answers.append(window.take(_parse_message(window, data, is_text)))
    except CarryoverError as error:
        return answers, error
    return answers, None


def _send_chunk(window: Window, sent: Sent, connection: SessionSocket) -> None:
    cursor, options = window.cursor, window.options
    # The first message names the model, so that the server can refuse it; a binary message cannot name one.
    named = sent.first and cursor.model is not None
    floats = sent.chunk.floats() if options.plain and not named else None
    if floats is not None:
        connection.put(frames.message(floats, sent.at, cursor.epoch, options.horizon), text=False)
        return
    model = cursor.model if named else None
    text = wire.chunk_text(sent.chunk, sent.at, cursor.epoch, model, options)
    connection.put(text.encode(), text=True)


def _parse_message(window: Window, data: bytes, is_text: bool) -> Answer:
    if not window.pending:
        raise NotCarryover("the server sent a message that answers no chunk")
    sent = window.pending[0]
    if not is_text:
        try:
            fields = frames.answer(data, sent.chunk.flat)
        except ValueError as error:
            raise NotCarryover(str(error)) from None
    else:
        fields = wire.parse_object(data)
        if "predictions" not in fields and "outputs" not in fields:
            raise _refusal(fields)
    answer = wire.parse_answer(fields, window.cursor, sent.chunk)
    if answer.position != sent.at + len(sent.chunk):
        raise NotCarryover(f"the answer has position {answer.position}, but the chunk starts at {sent.at}")
    return answer


def _refusal(fields: dict[str, object]) -> CarryoverError:
    return refusal(fields) if "status" in fields else NotCarryover("an answer has no predictions")


def _uses_proxy(url: str) -> bool:
    """Whether requests to this URL go through a proxy, by `HTTP_PROXY` and its kin. Sockets cannot."""
    parts, proxies = urlsplit(url), getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not proxy_bypass(parts.hostname or "")


def _socket_url(url: str, cursor: Cursor) -> str:
    """http://host/prefix -> ws://host/prefix/sessions/{id}/stream."""
    scheme, _, rest = url.partition("://")
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest.rstrip('/')}{cursor.path}/stream"
