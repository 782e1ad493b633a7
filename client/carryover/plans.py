"""The operations on one session and on the service, as plans over requests (see `effects`)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from carryover import wire
from carryover.effects import Attempts, Emit, Plan, Reply, Request, Sleep
from carryover.errors import (
    CarryoverError,
    SessionExists,
    SessionGone,
    Unavailable,
    UnknownModel,
    UnknownSession,
    Unreachable,
    WorkerUnavailable,
)
from carryover.named import Naming, names_of
from carryover.observations import Chunk, chunk_of, future_chunk
from carryover.retry import Pauses, RetryPolicy
from carryover.values import Answer, Forecast, History, ModelInfo, SessionInfo, model_info, session_info
from carryover.wire import ChunkOptions, Cursor

PAGE = 500
ABSENT = (UnknownSession, SessionGone)


def send(request: Request, retry: RetryPolicy, attempts: Attempts | None = None) -> Plan[Reply]:
    """Send a request until it is answered: again after a failed connection, and after a status 429 or 503.

    Raises
    ------
    CarryoverError : the server's refusal; or Unreachable or Unavailable when the policy's time is over
    """
    pauses = None
    while True:
        failure: CarryoverError
        try:
            reply: Reply = yield request
        except Unreachable as error:
            failure = error
            if attempts is not None:
                attempts.unanswered = True
        else:
            if reply.succeeded:
                return reply
            failure = wire.failure(request, reply)
            if not isinstance(failure, Unavailable):
                raise failure
            if attempts is not None and (not failure.type or isinstance(failure, WorkerUnavailable)):
                attempts.unanswered = True  # a proxy in front, or a worker, that does not know what was done
        pauses = pauses or Pauses(retry)
        yield Sleep(pauses.after(failure))


def locate(cursor: Cursor, retry: RetryPolicy) -> Plan[None]:
    """Ask for the session's position; a session that does not exist is at 0.

    An expired or deleted session starts again only here, before this client has sent it a chunk.
    """
    if cursor.position is not None:
        return
    try:
        session = wire.reply_object((yield from send(wire.inspect(cursor), retry)))
    except ABSENT:
        if cursor.creation_options is None:
            cursor.position, cursor.epoch = 0, None
            return
        yield from create(cursor, retry)
        return
    _check_model(cursor, session)
    cursor.update(session)


def settle(cursor: Cursor, retry: RetryPolicy) -> Plan[None]:
    """Create the session as it was named to this client, or check that it runs the model that was named.

    A request for many sessions cannot say it of a single one.

    Raises
    ------
    SessionExists : it runs another model
    """
    if cursor.position is not None:
        _check_model(cursor, wire.reply_object((yield from send(wire.inspect(cursor), retry))))
        cursor.model_confirmed = True
        return
    yield from locate(cursor, retry)
    if cursor.epoch is None:
        yield from create(cursor, retry)


def advance(cursor: Cursor, chunk: Chunk, options: ChunkOptions, retry: RetryPolicy) -> Plan[Answer]:
    """Send one chunk, which is applied exactly once."""
    yield from locate(cursor, retry)
    reply = yield from send(wire.observe(cursor, chunk, options), retry)
    answer = wire.parse_answer(wire.reply_object(reply), cursor, chunk)
    cursor.update(answer)
    return answer


def create(cursor: Cursor, retry: RetryPolicy) -> Plan[SessionInfo]:
    """Create the session. If an unanswered attempt has created it already, that is not an error."""
    attempts = Attempts()
    try:
        reply = yield from send(wire.create(cursor), retry, attempts)
    except SessionExists:
        if not attempts.unanswered:
            raise
        reply = yield from send(wire.inspect(cursor), retry)
        session = wire.reply_object(reply)
        _check_model(cursor, session)
        if session["position"]:  # it was there before: what this client has created is at 0
            raise
    return _update(cursor, reply)


def inspect(cursor: Cursor, retry: RetryPolicy) -> Plan[SessionInfo]:
    """Ask the server about the session, and continue at its position.

    Raises
    ------
    SessionExists : it runs another model than the one that was named for it
    """
    reply = yield from send(wire.inspect(cursor), retry)
    if not cursor.model_confirmed:
        _check_model(cursor, wire.reply_object(reply))
    return _update(cursor, reply)


def describe(cursor: Cursor, retry: RetryPolicy) -> Plan[SessionInfo]:
    """Ask the server about the session. The position that this client expects does not change."""
    return session_info(wire.reply_object((yield from send(wire.inspect(cursor), retry))))


def reset(cursor: Cursor, retry: RetryPolicy) -> Plan[SessionInfo]:
    """Set the carry to zero. The position does not change, so a repeated reset has no further effect."""
    yield from locate(cursor, retry)
    return _update(cursor, (yield from send(wire.reset(cursor), retry)))


def fork(cursor: Cursor, target: Cursor | None, retry: RetryPolicy) -> Plan[Cursor]:
    """Create a session with a copy of the carry. The client draws a missing id, so that a retry finds it."""
    yield from locate(cursor, retry)
    drawn = target is None
    copy, attempts = target or Cursor(secrets.token_hex(12)), Attempts()
    try:
        reply = yield from send(wire.fork(cursor, copy.session), retry, attempts)
    except SessionExists:
        if not (drawn and attempts.unanswered):
            raise
        reply = yield from send(wire.inspect(copy), retry)
    _update(copy, reply)
    return copy


def delete(cursor: Cursor, retry: RetryPolicy) -> Plan[None]:
    """Delete the session. If an unanswered attempt has deleted it already, that is not an error."""
    attempts = Attempts()
    try:
        wire.check_deleted((yield from send(wire.delete(cursor), retry, attempts)))
    except ABSENT:
        if not attempts.unanswered:
            raise
    cursor.invalidate()


def forecast(
    cursor: Cursor,
    steps: int,
    level: float | None,
    levels: Sequence[float],
    rows: Chunk | None,
    retry: RetryPolicy,
) -> Plan[Forecast]:
    """Forecast from a copy of the carry. The session does not change.

    Parameters
    ----------
    rows : the columns that are known ahead
    """
    reply = yield from send(wire.forecast(cursor, steps, level, levels, rows), retry)
    return wire.parse_forecast(wire.reply_object(reply))


def history(
    cursor: Cursor, last: int | None, start: int | None, limit: int | None, retry: RetryPolicy
) -> Plan[History]:
    """What the session observed last, as far as the server has kept it."""
    reply = yield from send(wire.history(cursor, last, start, limit), retry)
    return wire.parse_history(wire.reply_object(reply))


def export(cursor: Cursor, retry: RetryPolicy) -> Plan[bytes]:
    """Return the session's state, as the bytes of a safetensors file."""
    return wire.parse_state((yield from send(wire.export(cursor), retry)))


def load(cursor: Cursor, state: bytes, retry: RetryPolicy) -> Plan[SessionInfo]:
    """Give the session an exported state; it is created if it does not exist."""
    return _update(cursor, (yield from send(wire.load(cursor, state), retry)))


def annotate(
    cursor: Cursor, labels: Mapping[str, str | None] | None, retry: RetryPolicy
) -> Plan[SessionInfo]:
    """Change the session's labels. A repeated change has no further effect."""
    return session_info(wire.reply_object((yield from send(wire.annotate(cursor, labels), retry))))


def sessions(
    model: str | None,
    retry: RetryPolicy,
    after: str = "",
    detail: bool = False,
    labels: Mapping[str, str] | None = None,
    order: str | None = None,
    descending: bool = False,
) -> Plan[None]:
    """Emit every session that has all the labels, page by page; by id, those behind `after`.

    Raises
    ------
    ValueError : `after` is an id, and the order is not by id
    """
    if after and order not in (None, "name"):
        raise ValueError(f"after= is an id: leave it out of a list with order={order!r}")
    start: str | None = after
    while start is not None:
        request = wire.page(PAGE, start, model, detail, labels, order, descending)
        page = wire.reply_object((yield from send(request, retry)))
        for session in page["sessions"]:
            yield Emit(session)
        start = page["next"]


def count(retry: RetryPolicy) -> Plan[int]:
    """Return the number of sessions."""
    page = wire.reply_object((yield from send(wire.page(1), retry)))
    return int(page["total"])


def models(retry: RetryPolicy) -> Plan[list[ModelInfo]]:
    """Return every loaded model."""
    payload = wire.reply_object((yield from send(Request("GET", "/models"), retry)))
    return [model_info(model) for model in payload["models"]]


def to_chunk(
    observations: Any,
    cursor: Cursor,
    known: dict[str, ModelInfo],
    retry: RetryPolicy,
    columns: Mapping[str, str] | None = None,
    timestamps: Any = None,
    model: str | None = None,
) -> Plan[Chunk]:
    """Convert observations to a chunk; the columns of a table go to the model's inputs by name."""
    naming = yield from naming_for(observations, cursor, known, retry, columns, model)
    return chunk_of(observations, naming, timestamps)


def to_future(
    future: Any,
    cursor: Cursor,
    known: dict[str, ModelInfo],
    retry: RetryPolicy,
    columns: Mapping[str, str] | None = None,
) -> Plan[Chunk | None]:
    """Convert the columns that are known ahead to a chunk."""
    if future is None:
        return None
    return future_chunk(future, (yield from naming_for(future, cursor, known, retry, columns)))


def naming_for(
    observations: Any,
    cursor: Cursor,
    known: dict[str, ModelInfo],
    retry: RetryPolicy,
    columns: Mapping[str, str] | None = None,
    model: str | None = None,
) -> Plan[Naming | None]:
    """Return the names of the session's model, if the observations have names.

    Parameters
    ----------
    known : models that this client has seen
    columns : the model's name of a column by its name in the observations
    model : of a session whose model is not known

    Raises
    ------
    ValueError : names are mapped, but the observations have none
    UnknownModel
    """
    if names_of(observations) is None:
        if columns:
            raise ValueError("columns= maps names, but the observations have none")
        return None
    name = cursor.model or model
    if name is None:
        yield from locate(cursor, retry)
        name = cursor.model
    if name not in known:
        loaded: list[ModelInfo] = yield from models(retry)
        known.update((info.name, info) for info in loaded)
        name = name or next((info.name for info in loaded if info.default), None)
    if name not in known:
        detail = f"the server has no model {name!r}; it has {', '.join(known)}"
        raise UnknownModel(detail, 404, "urn:carryover:unknown-model")
    info = known[name]
    inputs = info.inputs[: len(info.inputs) - len(info.time_inputs)]
    return Naming(info.name, inputs, info.time_inputs, info.targets, info.future, columns or {})


def _update(cursor: Cursor, reply: Reply) -> SessionInfo:
    session = wire.reply_object(reply)
    cursor.update(session)
    return session_info(session)


def _check_model(cursor: Cursor, session: Mapping[str, Any]) -> None:
    if cursor.model not in (None, session["model"]):
        detail = f"session {cursor.session!r} runs model {session['model']!r}, not {cursor.model!r}"
        raise SessionExists(detail, 409, "urn:carryover:session-exists")
