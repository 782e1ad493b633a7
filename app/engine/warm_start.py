"""Residents of an older network, started warm on the newer one: their last observations are replayed.

Never a carry of one network in another: the newer one begins from zero and observes again what the
session's carry has kept (`CARRYOVER_REPLAY_OBSERVATIONS`). Position, epoch, times and remembered answers
stay. No client can see when it happens, so it needs no commit of its own: a server that stops before the
session's next chunk finds the older record and replays the same observations again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from app.engine.residents import Residents
from app.session.rows import Rows, copy_headers, header_type
from app.session.slab import Slab
from models.arrays import Ints

log = logging.getLogger("carryover.engine")


def warm_start_sessions(sessions: Residents, touched: Iterable[str]) -> None:
    """Move those of these sessions that are resident on an older network to the newest of its name."""
    touched = list(touched)
    for slab in sessions.models.outdated_slabs():
        mine = [session for session in touched if session in slab.index]
        if mine and _compatible(slab, sessions.models.current[slab.forecaster.artifact.name]):
            _move(sessions, slab, sessions.models.successor(slab), mine, touched)


def _compatible(older: Slab, newer: Slab) -> bool:
    """Whether what one observed is what the other observes, and predicts."""
    before, after = older.forecaster, newer.forecaster
    return (
        before.tail > 0
        and before.artifact.columns == after.artifact.columns
        and before.artifact.targets == after.artifact.targets
    )


def _move(sessions: Residents, older: Slab, newer: Slab, mine: list[str], staying: list[str]) -> None:
    before = older.read(older.rows_of(mine))
    try:
        carries = _replayed(older, newer, before)
    except Exception:
        log.exception("the newer network failed on %d sessions: they keep the older one", len(mine))
        return
    sessions.make_room(newer, len(mine), staying)
    headers = np.zeros(len(mine), header_type(newer.recent_chunks, newer.forecaster.output_size))
    copy_headers(before.headers, headers)
    rows = np.array([newer.take() for _ in mine])
    newer.write(rows, Rows(headers, carries, before.long_answers))
    for session, row in zip(mine, rows.tolist(), strict=True):
        older.remove(session)
        newer.publish(session, row)


def _replayed(older: Slab, newer: Slab, before: Rows) -> np.ndarray:
    """Carries of the newer network, [batch, carry_size], after what each session has observed last."""
    tail = older.forecaster.tail
    kept: Ints = np.minimum(before.headers["since_reset"], tail)
    carries = newer.forecaster.initial_carries_from(older.forecaster, before.carries)
    some = np.flatnonzero(kept)
    if len(some):
        tails = older.forecaster.layout.tails(before.carries[some])
        observed = np.concatenate([rows[tail - n :] for rows, n in zip(tails, kept[some], strict=True)])
        _, carries[some] = newer.forecaster.advance(observed, kept[some], carries[some])
    if not np.isfinite(carries).all():
        raise ArithmeticError("the newer network left the finite numbers")
    return carries
