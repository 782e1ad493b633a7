"""What can be done with one session, and with the service: each a plan over requests (see `effects`)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from carryover import wire
from carryover.effects import Emit, Plan, Reply, Request, Sleep, Tried
from carryover.errors import (
    CarryoverError,
    SessionExists,
    SessionGone,
    Unavailable,
    UnknownSession,
    Unreachable,
    problem,
)
from carryover.numbers import Chunk, chunk_of, is_frame
from carryover.retry import Patience, Pauses
from carryover.values import Answer, Forecast, ModelInfo, SessionInfo, model_info, session_info
from carryover.wire import Cursor, Wanted

PAGE = 500
ABSENT = (UnknownSession, SessionGone)


def asked(request: Request, patience: Patience, tried: Tried | None = None) -> Plan[Reply]:
    """Send until there is an answer: again after a broken connection, and after the server's 503 or 429.

    Raises
    ------
    CarryoverError : the server's refusal, or Unreachable or Unavailable once patience is at an end
    """
    pauses = None
    while True:
        trouble: CarryoverError
        try:
            reply: Reply = yield request
        except Unreachable as error:
            trouble = error
            if tried is not None:
                tried.before = True
        else:
            if reply.status < 400:
                return reply
            trouble = problem(reply.status, reply.body, reply.retry_after)
            if not isinstance(trouble, Unavailable):
                raise trouble
        pauses = pauses or Pauses(patience)
        yield Sleep(pauses.after(trouble))


def located(cursor: Cursor, patience: Patience) -> Plan[None]:
    """Find out where the session is; one that is not there begins at 0.

    A session that is gone is begun anew only here, before this client has sent anything to it.
    """
    if cursor.position is not None:
        return
    try:
        told = wire.document((yield from asked(wire.inspect(cursor), patience)))
    except ABSENT:
        if cursor.created_with is None:
            cursor.position, cursor.epoch = 0, None
            return
        yield from create(cursor, patience)
        return
    _same_model(cursor, told)
    cursor.moved(told)


def advance(cursor: Cursor, chunk: Chunk, wanted: Wanted, patience: Patience) -> Plan[Answer]:
    """Move the session on by a chunk, exactly once."""
    yield from located(cursor, patience)
    reply = yield from asked(wire.observe(cursor, chunk, wanted), patience)
    answer = wire.answered(wire.document(reply), cursor, chunk)
    cursor.moved(answer)
    return answer


def create(cursor: Cursor, patience: Patience) -> Plan[SessionInfo]:
    """Make the session; a try that was cut off and made it is no error."""
    tried = Tried()
    try:
        reply = yield from asked(wire.create(cursor), patience, tried)
    except SessionExists:
        if not tried.before:
            raise
        reply = yield from asked(wire.inspect(cursor), patience)
    return _moved(cursor, reply)


def inspect(cursor: Cursor, patience: Patience) -> Plan[SessionInfo]:
    """What the server knows of the session; the next chunk goes on from there."""
    return _moved(cursor, (yield from asked(wire.inspect(cursor), patience)))


def peek(cursor: Cursor, patience: Patience) -> Plan[SessionInfo]:
    """The same, and where this client believes the session to be stays as it is."""
    return session_info(wire.document((yield from asked(wire.inspect(cursor), patience))))


def reset(cursor: Cursor, patience: Patience) -> Plan[SessionInfo]:
    """Zero the carry; the position stays, so that to do it twice is to do it once."""
    yield from located(cursor, patience)
    return _moved(cursor, (yield from asked(wire.reset(cursor), patience)))


def fork(cursor: Cursor, into: Cursor | None, patience: Patience) -> Plan[Cursor]:
    """A new session with a copy of the carry. An id that is not given is drawn here: a retry finds it."""
    yield from located(cursor, patience)
    drawn = into is None
    copy, tried = into or Cursor(secrets.token_hex(12)), Tried()
    try:
        reply = yield from asked(wire.fork(cursor, copy.session), patience, tried)
    except SessionExists:
        if not (drawn and tried.before):
            raise
        reply = yield from asked(wire.inspect(copy), patience)
    _moved(copy, reply)
    return copy


def delete(cursor: Cursor, patience: Patience) -> Plan[None]:
    """Forget the session; that a try which was cut off has done so already is no error."""
    tried = Tried()
    try:
        yield from asked(wire.delete(cursor), patience, tried)
    except ABSENT:
        if not tried.before:
            raise
    cursor.lost()


def forecast(
    cursor: Cursor, steps: int, level: float | None, future: Any, patience: Patience
) -> Plan[Forecast]:
    """Roll out on a copy of the carry; the session does not move."""
    rows = None if future is None else chunk_of(future)
    reply = yield from asked(wire.forecast(cursor, steps, level, rows), patience)
    return wire.forecasted(wire.document(reply))


def export(cursor: Cursor, patience: Patience) -> Plan[bytes]:
    """The session's state as a safetensors file."""
    reply = yield from asked(wire.export(cursor), patience)
    return reply.body


def load(cursor: Cursor, state: bytes, patience: Patience) -> Plan[SessionInfo]:
    """Put the session in an exported state, whether it is there or not."""
    return _moved(cursor, (yield from asked(wire.load(cursor, state), patience)))


def sessions(model: str | None, patience: Patience, after: str = "") -> Plan[None]:
    """Emit every session behind `after`, page after page."""
    cursor: str | None = after
    while cursor is not None:
        told = wire.document((yield from asked(wire.page(cursor, model, PAGE), patience)))
        for one in told["sessions"]:
            yield Emit(one)
        cursor = told["next"]


def count(patience: Patience) -> Plan[int]:
    """How many sessions there are."""
    told = wire.document((yield from asked(wire.page("", None, 1), patience)))
    return int(told["total"])


def models(patience: Patience) -> Plan[list[ModelInfo]]:
    """Every model that is loaded."""
    told = wire.document((yield from asked(Request("GET", "/models"), patience)))
    return [model_info(one) for one in told["models"]]


def chunked(
    observations: Any, cursor: Cursor, known: dict[str, ModelInfo], patience: Patience
) -> Plan[Chunk]:
    """Observations as a chunk; the columns of a DataFrame are put into the order of the model's inputs."""
    columns = yield from columns_for(observations, cursor, known, patience)
    return chunk_of(observations, *columns)


def columns_for(
    observations: Any, cursor: Cursor, known: dict[str, ModelInfo], patience: Patience
) -> Plan[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Inputs and targets of the session's model, if the observations have columns to be named."""
    if not is_frame(observations):
        return (), ()
    if cursor.model is None:
        yield from located(cursor, patience)
    if cursor.model not in known:
        told: list[ModelInfo] = yield from models(patience)
        known.update((one.name, one) for one in told)
        cursor.model = cursor.model or next((one.name for one in told if one.default), None)
    model = known.get(cursor.model or "")
    return ((), ()) if model is None else (model.inputs, model.targets)


def _moved(cursor: Cursor, reply: Reply) -> SessionInfo:
    told = wire.document(reply)
    cursor.moved(told)
    return session_info(told)


def _same_model(cursor: Cursor, told: Mapping[str, Any]) -> None:
    if cursor.model not in (None, told["model"]):
        detail = f"session {cursor.session!r} runs model {told['model']!r}, not {cursor.model!r}"
        raise SessionExists(detail, 409, "urn:carryover:session-exists")
