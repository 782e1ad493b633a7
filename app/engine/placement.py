"""Finds the slab and row of each chunk's session. A first chunk creates its session."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from app.engine import exactly_once
from app.engine.batch import Batch
from app.engine.residents import Residents
from app.errors import CarryoverError, SessionExists
from app.jobs.jobs import Advance, AdvanceMany, SeparateReplies
from app.jobs.split import JobParts
from app.session.names import id_of
from app.session.rows import scalar
from app.session.slab import Slab
from models.arrays import Ints

Placement = tuple[AdvanceMany, Slab, Ints]


def place(job: Advance, residents: Residents, batch: Batch) -> tuple[Slab, int]:
    """Find the slab and row of a chunk's session. Create it if absent, unless the client expects it to exist.

    Raises
    ------
    CarryoverError : it cannot be created, or it runs another model
    """
    session = job.session
    for slab in residents.models.slabs.values():
        row = slab.index.get(session)
        if row is not None:
            if job.model is not None:
                _check_model(session, slab, job.model)
            if job.reset and _is_in_step(slab, row, job, batch):
                return residents.move_to_newest(session, slab, row, batch)
            return slab, row
    if job.at or job.epoch is not None or not job.create:
        raise exactly_once.missing_session_error(session, batch.missing.get(session))
    slab = residents.models.slab_for_model(job.model)
    return slab, residents.create(session, slab, None, batch)


def _is_in_step(slab: Slab, row: int, job: Advance, batch: Batch) -> bool:
    """Whether the session is alive, and has the position and epoch that the client claims."""
    header = slab.headers[row]
    return bool(
        (job.progress is not None or header["deadline"] >= batch.now)
        and job.at in (None, header["position"])
        and job.epoch in (None, header["epoch"])
    )


def place_bulk(
    job: AdvanceMany, residents: Residents, batch: Batch
) -> tuple[list[Placement], list[AdvanceMany]]:
    """Divide a bulk job by the slabs of its sessions. Create new sessions.

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
    refused = [(parts.single(i), error) for i, error in chunks.refused.items()]
    batch.split(job, [*(part for part, _, _ in placed), *expired, *(part for part, _ in refused)])
    for single, reason in refused:
        batch.refuse(single, reason)
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
    for i, session in enumerate(job.sessions):
        found = residents.find(session)
        if found is None:
            expected = (job.at is not None and job.at[i] > 0) or (job.epochs is not None and job.epochs[i])
            if expected or isinstance(batch.missing.get(session), CarryoverError):
                error = exactly_once.missing_session_error(session, batch.missing.get(session))
                chunks.refused[i] = error
            else:
                chunks.new.append(i)
            continue
        slab, row = found
        try:
            if job.model is not None:
                _check_model(session, slab, job.model)
        except SessionExists as error:
            chunks.refused[i] = error
            continue
        if scalar(slab.headers, "deadline", row) < batch.now:
            chunks.expired.append(i)
        else:
            chunks.rows[slab][i] = row
    return chunks


def _check_model(session: str, slab: Slab, model: str) -> None:
    name = slab.forecaster.artifact.name
    if model != name:
        raise SessionExists(f"session {id_of(session)!r} runs model {name!r}, not {model!r}")
