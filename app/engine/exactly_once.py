"""Exactly once: may this chunk be applied, was it already, or is it out of step? (DESIGN section 5)

Pure rules over one session. Where a whole wave is in step, as it nearly always is, the engine sees so
with one comparison of arrays and never comes here.
"""

from __future__ import annotations

from app.errors import CarryoverError, OutOfStep, SessionGone, UnknownSession
from app.jobs.answers import epoch_token
from app.session import recent_answers
from app.session.names import id_of
from app.session.rows import Answer, Rows, scalar
from app.stores import Tombstone


def check_epoch(session: str, actual: int, claimed: int | None, position: int) -> None:
    """Refuse a client that speaks to another incarnation of this id, which is at `position`."""
    if claimed is not None and claimed != actual:
        raise OutOfStep(
            f"session {id_of(session)!r} is not the one that this epoch belongs to: it was made anew since",
            epoch=epoch_token(actual),
            position=position,
        )


def check_position(session: str, position: int, at: int | None) -> None:
    """Refuse a command made for another position."""
    if at is not None and at != position:
        raise OutOfStep(
            f"session {id_of(session)!r} is at {position}, the request is for {at}", position=position
        )


def stored_answer(rows: Rows, i: int, session: str, at: int, length: int, digest: int) -> tuple[int, Answer]:
    """The stored answer of a chunk that was applied already, and the position behind it.

    Raises
    ------
    OutOfStep : it is not one of the session's remembered chunks
    """
    position = scalar(rows.headers, "position", i)
    place = recent_answers.find(rows, i, at, length)
    if place is None:
        raise OutOfStep(
            f"session {id_of(session)!r} is at {position}, the chunk starts at {at}", position=position
        )
    if recent_answers.digest(rows, i, place) != digest:
        raise OutOfStep(
            f"session {id_of(session)!r} is at {position}: another chunk than this one was applied at {at}",
            position=position,
        )
    return at + length, recent_answers.answer(rows, i, place)


def missing_session_error(session: str, tombstone: Tombstone | CarryoverError | None) -> CarryoverError:
    """Why there is no such session here."""
    if isinstance(tombstone, CarryoverError):
        return tombstone
    if tombstone is None:
        return UnknownSession(f"there is no session {id_of(session)!r}")
    return SessionGone(
        f"session {id_of(session)!r} was {tombstone.reason} at position {tombstone.position}",
        position=tombstone.position,
        reason=tombstone.reason,
    )
