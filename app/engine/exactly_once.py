"""The rules of exactly once, for one session. A chunk is applied, replayed or refused.

Nearly always, all chunks of a batch start at their sessions' positions. The engine checks this with one
comparison of arrays, and uses these rules only for the chunks that differ.
"""

from __future__ import annotations

from app.engine.times import times_of_chunk, with_times
from app.errors import CarryoverError, OutOfStep, SessionGone, UnknownSession
from app.jobs.answers import ChunkAnswer, epoch_token
from app.jobs.options import ChunkOptions
from app.session import recent_answers
from app.session.names import id_of
from app.session.rows import Rows, scalar
from app.session.slab import Slab
from app.stores import Tombstone


def check_epoch(session: str, actual: int, claimed: int | None, position: int) -> None:
    """Refuse a client whose epoch is that of an earlier session of this id.

    Raises
    ------
    OutOfStep
    """
    if claimed is not None and claimed != actual:
        raise OutOfStep(
            f"session {id_of(session)!r} has another epoch: it was created anew since",
            epoch=epoch_token(actual),
            position=position,
        )


def check_position(session: str, position: int, at: int | None) -> None:
    """Refuse a command that was meant for another position.

    Raises
    ------
    OutOfStep
    """
    if at is not None and at != position:
        raise OutOfStep(
            f"session {id_of(session)!r} is at {position}, the request is for {at}", position=position
        )


def stored_answer(
    session: str,
    slab: Slab,
    rows: Rows,
    i: int,
    at: int | None,
    epoch: int | None,
    length: int,
    digest: int,
    options: ChunkOptions | None = None,
) -> ChunkAnswer:
    """The stored answer to a chunk that does not start at the position of its session.

    Parameters
    ----------
    slab : of the session
    rows, i : the session is `rows[i]`
    at, epoch : that the client claims
    length, digest, options : of the chunk

    Raises
    ------
    OutOfStep : the session does not remember such a chunk
    """
    position, actual_epoch = scalar(rows.headers, "position", i), scalar(rows.headers, "epoch", i)
    check_epoch(session, actual_epoch, epoch, position)
    if at is None:
        raise OutOfStep(f"session {id_of(session)!r} was moved by another request meanwhile")
    recent = recent_answers.find(rows, i, at, length)
    if recent is None:
        raise OutOfStep(
            f"session {id_of(session)!r} is at {position}, the chunk starts at {at}", position=position
        )
    if recent_answers.digest(rows, i, recent) != digest:
        raise OutOfStep(
            f"session {id_of(session)!r} is at {position}: another chunk than this one was applied at {at}",
            position=position,
        )
    forecaster, later = slab.forecaster, position - at - length
    times = times_of_chunk(forecaster, options, rows.carries[i], length, later)
    answer = with_times(recent_answers.answer(rows, i, recent), forecaster, times)
    model = forecaster.artifact.name
    return ChunkAnswer(session, model, at + length, actual_epoch, True, answer, slab.output_ports)


def missing_session_error(session: str, tombstone: Tombstone | CarryoverError | None) -> CarryoverError:
    """The error for a session that was not found. It is unknown, gone or not readable."""
    if isinstance(tombstone, CarryoverError):
        return tombstone
    if tombstone is None:
        return UnknownSession(f"there is no session {id_of(session)!r}")
    return SessionGone(
        f"session {id_of(session)!r} was {tombstone.reason} at position {tombstone.position}",
        position=tombstone.position,
        reason=tombstone.reason,
    )
