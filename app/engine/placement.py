"""Finds the slab and row of each chunk's session. A first chunk creates its session."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from app.engine import exactly_once
from app.engine.batch import Batch, SessionExpired
from app.engine.residents import Residents
from app.errors import CarryoverError, SessionExists
from app.jobs.jobs import Advance, AdvanceMany, SeparateReplies
from app.jobs.split import JobParts
from app.session.names import id_of
from app.session.notes import Notes
from app.session.rows import scalar
from app.session.slab import Slab
from models.arrays import Ints

Placement = tuple[AdvanceMany, Slab, Ints]


def place_unusual(job: Advance, residents: Residents, batch: Batch) -> tuple[Slab, int]:
    """Find the slab and row of a chunk's session. Create it if absent, unless the client expects it to exist.

    Raises
    ------
    CarryoverError : it cannot be created, or it runs another model
    SessionExpired
    """
    session = job.session
    is_expected = bool(job.at) or job.epoch is not None or not job.create
    now = batch.now if job.progress is None else -math.inf  # a chunk that has begun goes on
    found = _find(session, job.model, residents, batch, is_expected=is_expected, now=now)
    if found is None:
        slab = residents.models.slab_for_model(job.model)
        row = residents.create(session, slab, None, batch)
        if job.options is not None and job.options.labels:
            slab.set_notes(row, Notes(tuple(job.options.labels)))
        return slab, row
    slab, row = found
    if job.reset and job.is_in_step(slab.headers[row]):
        return residents.move_to_newest(session, slab, row, batch)
    return found


def _find(
    session: str, model: str | None, residents: Residents, batch: Batch, *, is_expected: bool, now: float
) -> tuple[Slab, int] | None:
    """The slab and row of a chunk's session; None if it must be created.

    Parameters
    ----------
    model : that the chunk names
    is_expected : whether the client expects the session to exist

    Raises
    ------
    CarryoverError : it does not exist, it cannot be read, or it runs another model
    SessionExpired
    """
    found = residents.find(session)
    if found is None:
        missing = batch.missing.get(session)
        if is_expected or isinstance(missing, CarryoverError):
            raise exactly_once.missing_session_error(session, missing)
        return None
    slab, row = found
    name = slab.forecaster.artifact.name
    if model not in (None, name):
        raise SessionExists(f"session {id_of(session)!r} runs model {name!r}, not {model!r}")
    if scalar(slab.headers, "deadline", row) < now:
        raise SessionExpired
    return found


def place_chunks(
    job: AdvanceMany, residents: Residents, batch: Batch
) -> tuple[list[Placement], list[AdvanceMany]]:
    """Divide a job by the slabs of its sessions. Create new sessions.

    Returns the jobs with their slabs and rows, and the chunks of expired sessions. A chunk that cannot be
    placed is refused alone.
    """
    together = batch.bulk_rows.get(id(job)) or residents.find_all(job, batch.now)
    if together is not None:
        return [(job, *together)], []
    parts = JobParts(job)
    chunks = _sort(job, residents, batch)
    if chunks.new:
        _create(chunks.new, job, chunks, residents, batch)
    placed: list[Placement] = []
    for slab, by_index in chunks.rows.items():
        indexes = np.array(sorted(by_index))
        placed.append((parts.subset(indexes), slab, np.array([by_index[i] for i in indexes.tolist()])))
    expired = [parts.subset(np.array(chunks.expired))] if chunks.expired else []
    refused = [(parts.subset(np.array([i])), error) for i, error in chunks.refused.items()]
    batch.split(job, [*(part for part, _, _ in placed), *expired, *(part for part, _ in refused)])
    for part, reason in refused:
        batch.refuse(part, reason)
    return placed, expired


def _create(
    indexes: Sequence[int], job: AdvanceMany, chunks: _SortedChunks, residents: Residents, batch: Batch
) -> None:
    """Create the sessions at these indexes: all or none, but of separate requests as many as there may be."""
    try:
        slab = residents.models.slab_for_model(job.model)
        names = [job.sessions[i] for i in indexes]
        rows = residents.create_many(names, slab, None, batch).tolist()
    except CarryoverError as error:
        if len(indexes) > 1 and isinstance(job.reply, SeparateReplies):
            for i in indexes:
                _create([i], job, chunks, residents, batch)
        else:
            chunks.refused |= dict.fromkeys(indexes, error)
    else:
        chunks.rows[slab] |= dict(zip(indexes, rows, strict=True))


@dataclass(slots=True)
class _SortedChunks:
    """Indexes of the chunks of a bulk job, by the state of their sessions."""

    rows: defaultdict[Slab, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    new: list[int] = field(default_factory=list)
    expired: list[int] = field(default_factory=list)
    refused: dict[int, CarryoverError] = field(default_factory=dict)


def _sort(job: AdvanceMany, residents: Residents, batch: Batch) -> _SortedChunks:
    chunks = _SortedChunks()
    is_expected = (job.claimed_positions > 0) | (job.claimed_epochs > 0) | (not job.create)
    for i, (session, expected) in enumerate(zip(job.sessions, is_expected.tolist(), strict=True)):
        try:
            found = _find(session, job.model, residents, batch, is_expected=expected, now=batch.now)
        except CarryoverError as error:
            chunks.refused[i] = error
        except SessionExpired:
            chunks.expired.append(i)
        else:
            if found is None:
                chunks.new.append(i)
            else:
                slab, row = found
                chunks.rows[slab][i] = row
    return chunks
