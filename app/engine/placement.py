"""Where the chunks of a wave belong: the slab and row of each session, which a first chunk creates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np

from app.engine import exactly_once
from app.engine.batch import Batch
from app.engine.residents import Residents
from app.errors import CarryoverError, SessionExists
from app.jobs.jobs import Advance, AdvanceMany
from app.jobs.split import JobParts
from app.session.names import id_of
from app.session.rows import scalar
from app.session.slab import Slab
from models.arrays import Ints

Placement = tuple[AdvanceMany, Slab, Ints]


def place(job: Advance, sessions: Residents, touched: Collection[str], batch: Batch) -> tuple[Slab, int]:
    """Slab and row of the session of a chunk. It is created when absent, unless the client counts on it.

    Raises
    ------
    CarryoverError : it cannot be created, or is of another model
    """
    session = job.session
    for slab in sessions.models.slabs.values():
        row = slab.index.get(session)
        if row is not None:
            if job.model is not None:
                _check_model(session, slab, job.model)
            if job.reset and is_in_step(slab, row, job, batch):
                return sessions.move_to_newest(session, slab, row, batch, touched)
            return slab, row
    if job.at or job.epoch is not None or not job.create:
        raise exactly_once.missing_session_error(session, batch.tombstones.get(session))
    slab = sessions.models.slab_for_model(job.model)
    return slab, sessions.create(session, slab, None, batch, touched)


def is_in_step(slab: Slab, row: int, job: Advance, batch: Batch) -> bool:
    """Whether the session is there and where the client believes it to be."""
    header = slab.headers[row]
    return bool(
        (job.progress is not None or header["deadline"] >= batch.now)
        and job.at in (None, header["position"])
        and job.epoch in (None, header["epoch"])
    )


def place_bulk(
    job: AdvanceMany, sessions: Residents, touched: Collection[str], batch: Batch
) -> tuple[list[Placement], list[AdvanceMany]]:
    """The same for many chunks: those of each slab, in one part; and those whose sessions have expired.

    What cannot be placed is refused alone.
    """
    together = batch.bulk_rows.get(id(job)) or sessions.find_all(job, batch.now)
    if together is not None:
        return [(job, *together)], []
    parts = JobParts(job)
    found, newborn, late, refused = _sort(job, sessions, batch)
    if newborn:
        try:
            slab = sessions.models.slab_for_model(job.model)
            names = [job.sessions[i] for i in newborn]
            rows = sessions.create_many(names, slab, None, batch, touched).tolist()
        except CarryoverError as error:
            refused |= dict.fromkeys(newborn, error)
        else:
            found[slab] |= dict(zip(newborn, rows, strict=True))
    placed: list[Placement] = []
    for slab, by_index in found.items():
        which = np.array(sorted(by_index))
        placed.append((parts.subset(which), slab, np.array([by_index[i] for i in which.tolist()])))
    expired = [parts.subset(np.array(late))] if late else []
    alone = [(parts.single(i), why) for i, why in refused.items()]
    batch.split(job, [*(part for part, _, _ in placed), *expired, *(part for part, _ in alone)])
    for single, why in alone:
        batch.refuse(single, why)
    return placed, expired


def _sort(
    job: AdvanceMany, sessions: Residents, batch: Batch
) -> tuple[defaultdict[Slab, dict[int, int]], list[int], list[int], dict[int, CarryoverError]]:
    """Indexes of the chunks: with the row by slab; to be born; whose session expired; refused."""
    found: defaultdict[Slab, dict[int, int]] = defaultdict(dict)
    newborn: list[int] = []
    late: list[int] = []
    refused: dict[int, CarryoverError] = {}
    for i, session in enumerate(job.sessions):
        there = sessions.find(session)
        if there is None:
            counted_on = (job.at is not None and job.at[i] > 0) or (job.epochs is not None and job.epochs[i])
            if counted_on or isinstance(batch.tombstones.get(session), CarryoverError):
                refused[i] = exactly_once.missing_session_error(session, batch.tombstones.get(session))
            else:
                newborn.append(i)
            continue
        slab, row = there
        try:
            if job.model is not None:
                _check_model(session, slab, job.model)
        except SessionExists as error:
            refused[i] = error
            continue
        if scalar(slab.headers, "deadline", row) < batch.now:
            late.append(i)
        else:
            found[slab][i] = row
    return found, newborn, late, refused


def _check_model(session: str, slab: Slab, model: str) -> None:
    name = slab.forecaster.artifact.name
    if model != name:
        raise SessionExists(f"session {id_of(session)!r} runs model {name!r}, not {model!r}")
