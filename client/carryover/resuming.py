"""Going on with a source after an interruption: find out how many of its rows the session has applied.

Row 0 of the source was applied at the position `start`, so a session at position p has applied its first
p - start rows. That is a count, and a count alone can be wrong: another source may have been sent since. So
the last chunk that the session applied is sent once more, at the position where it began. The server then
compares its content with what it has applied. If both agree, it sends its stored answer. If not, it refuses
the chunk. It applies it in neither case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from carryover import wire
from carryover.effects import PULL, Plan
from carryover.errors import CannotResume, OutOfStep
from carryover.observations import Chunk
from carryover.plans import locate, send
from carryover.retry import RetryPolicy
from carryover.wire import ChunkOptions, Cursor

MAX_LENGTHS = 1000
"""Lengths of the last chunk that are tried."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a source began, and what its caller has.

    start : position of the session when row 0 of the source was sent
    after : position of the last answer that the caller has; the server repeats the answers behind it. None:
        the caller does not need them
    """

    start: int = 0
    after: int | None = None


def skip_applied(
    cursor: Cursor, options: ChunkOptions, resume: Resume, retry: RetryPolicy
) -> Plan[Chunk | None]:
    """Pull the rows that the session has applied; return the rest of the last chunk pulled, if it has a rest.

    Raises
    ------
    CannotResume : the session has not applied these rows, or it cannot be decided
    """
    cursor.invalidate()
    yield from locate(cursor, retry)
    position = cursor.position or 0
    goal = position if resume.after is None else resume.after
    if not resume.start <= goal <= position:
        raise CannotResume(
            f"session {cursor.session!r} is at {position}: it cannot go on at {goal} with a source that "
            f"began at {resume.start}"
        )
    last, rest = yield from _pull(cursor, goal - resume.start, position)
    if last is not None and goal == position:  # else the server compares what is sent again
        yield from _verify(cursor, last, options, retry)
    cursor.position = goal
    return rest


def _pull(cursor: Cursor, count: int, position: int) -> Plan[tuple[Chunk | None, Chunk | None]]:
    """Pull `count` rows; the last applied rows, and the rows behind them that were pulled with them."""
    pulled, last = 0, None
    while pulled < count:
        last = yield PULL
        if last is None:
            raise CannotResume(
                f"the source has {pulled} rows, but session {cursor.session!r} is at {position}, {count} "
                "rows after the source began: it has applied other rows. To send these as new rows, do not "
                "resume"
            )
        pulled += len(last)
    if last is None or pulled == count:
        return last, None
    cut = len(last) - (pulled - count)
    return last.part(0, cut), last.part(cut, len(last))


def _verify(cursor: Cursor, last: Chunk, options: ChunkOptions, retry: RetryPolicy) -> Plan[None]:
    """Send the last applied chunk again.

    Its end is the end of `last`. It is shorter if an earlier run was resumed in the middle of a chunk. To the
    server a chunk with another horizon, other levels or another `score` is another chunk, so the options are
    sent, too.
    """
    for length in _lengths(len(last)):
        again = last.part(len(last) - length, len(last))
        at = Cursor(cursor.session, position=(cursor.position or 0) - length, epoch=cursor.epoch)
        try:
            reply = yield from send(wire.observe(at, again, options), retry)
        except OutOfStep:
            continue
        if wire.reply_object(reply)["replayed"]:
            return
    raise CannotResume(
        f"session {cursor.session!r} is at {cursor.position}, and the rows that it applied last are not "
        "those of the source there. It got rows from elsewhere, or was reset, or the source began at "
        "another position, or the chunk size, horizon, levels or `score` has changed. To send these as new "
        "rows, do not resume"
    )


def _lengths(longest: int) -> Iterator[int]:
    yield longest
    yield from range(1, min(longest, MAX_LENGTHS))
