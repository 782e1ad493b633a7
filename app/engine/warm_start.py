"""Moves resident sessions of an older network to the newer one, by replaying their last observations.

The newer network never gets the older one's carry. It begins at zero and observes again what the session's
carry has kept (`CARRYOVER_REPLAY_OBSERVATIONS`). Position, epoch, times and remembered answers do not change.
The move needs no commit of its own. If the server stops before the session's next chunk, it finds the older
record at the next start and replays the same observations again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

import numpy as np

from app.engine.batch import Batch
from app.engine.residents import Residents
from app.jobs.jobs import Advance, Forecast
from app.session.rows import Rows, copy_headers, header_type
from app.session.slab import Slab
from models.arrays import Floats, Ints

log = logging.getLogger("carryover.engine")


def warm_start_sessions(residents: Residents, batch: Batch) -> None:
    """Move those of the batch's sessions that are resident on an older network to the newest of its name.

    A session with an unfinished job is not moved, because the job's intermediate carry is the older
    network's.
    """
    begun = {job.session for job in batch.jobs if isinstance(job, Advance | Forecast) and job.progress}
    for slab in residents.models.outdated_slabs():
        moving = [session for session in batch.sessions - begun if session in slab.index]
        if moving and _compatible(slab, residents.models.current[slab.forecaster.artifact.name]):
            _move(residents, slab, residents.models.successor(slab), moving, batch.not_evictable)


def _compatible(older: Slab, newer: Slab) -> bool:
    """Whether both observe the same columns, predict the same targets, and remember answers alike."""
    before, after = older.forecaster, newer.forecaster
    return (
        before.tail > 0
        and before.artifact.columns == after.artifact.columns
        and before.artifact.targets == after.artifact.targets
        and before.short_answer_size == after.short_answer_size
    )


def _move(
    residents: Residents, older: Slab, newer: Slab, sessions: list[str], not_evictable: Collection[str]
) -> None:
    before = older.read(older.rows_of(sessions))
    try:
        carries = _replay(older, newer, before)
    except Exception:
        log.exception("the newer network failed on %d sessions: they keep the older one", len(sessions))
        return
    residents.make_room(newer, len(sessions), not_evictable)
    headers = np.zeros(len(sessions), header_type(newer.recent_chunks, newer.forecaster.short_answer_size))
    copy_headers(before.headers, headers)
    rows = np.array([newer.take() for _ in sessions])
    newer.write(rows, Rows(headers, carries, before.long_answers, before.notes))
    for session, row in zip(sessions, rows.tolist(), strict=True):
        older.remove(session)
        newer.publish(session, row)


def _replay(older: Slab, newer: Slab, before: Rows) -> Floats:
    """Carries of the newer network, [batch, carry_size], after the last observations of each session."""
    tail = older.forecaster.tail
    kept: Ints = np.minimum(before.headers["since_reset"], tail)
    carries = newer.forecaster.initial_carries_from(older.forecaster, before.carries)
    replayed = np.flatnonzero(kept)
    if len(replayed):
        tails = older.forecaster.layout.tails(before.carries[replayed])
        observed = np.concatenate([rows[tail - n :] for rows, n in zip(tails, kept[replayed], strict=True)])
        observed = newer.forecaster.numbers(observed)
        if newer.forecaster.broken_rules(observed) is not None:
            raise ValueError("the newer network cannot take what the sessions observed")
        _, carries[replayed] = newer.forecaster.advance(observed, kept[replayed], carries[replayed])
    if not newer.forecaster.finite_carries(carries).all():
        raise ArithmeticError("the newer network produced NaN or infinity")
    return carries
