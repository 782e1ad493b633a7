"""Where the chunks of a wave belong: the slab and row of each session, which a first chunk creates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np

from app.engine import exactly_once
from app.engine.residents import Sessions
from app.engine.wave import Wave
from app.errors import CarryoverError, SessionExists
from app.jobs.jobs import Advance, AdvanceMany
from app.jobs.split import Parts
from app.session.names import shown
from app.session.rows import Ints, scalar
from app.session.slab import Slab

Placed = tuple[AdvanceMany, Slab, Ints]


def place(job: Advance, sessions: Sessions, touched: Collection[str], wave: Wave) -> tuple[Slab, int]:
    """Slab and row of the session of a chunk. It is created when absent, unless the client counts on it.

    Raises
    ------
    CarryoverError : it cannot be created, or is of another model
    """
    session = job.session
    for slab in sessions.slabs.values():
        row = slab.index.get(session)
        if row is not None:
            if job.model is not None:
                _check_model(session, slab, job.model)
            if job.reset and in_step(slab, row, job, wave):
                return sessions.newest(session, slab, row, wave, touched)
            return slab, row
    if job.at or job.epoch is not None or not job.create:
        raise exactly_once.absent(session, wave.tombstones.get(session))
    slab = sessions.slab_of(job.model)
    return slab, sessions.born(session, slab, None, wave, touched)


def in_step(slab: Slab, row: int, job: Advance, wave: Wave) -> bool:
    """Whether the session is there and where the client believes it to be."""
    header = slab.headers[row]
    return bool(
        (job.progress is not None or header["deadline"] >= wave.now)
        and job.at in (None, header["position"])
        and job.epoch in (None, header["epoch"])
    )


def place_many(
    job: AdvanceMany, sessions: Sessions, touched: Collection[str], wave: Wave
) -> tuple[list[Placed], list[AdvanceMany]]:
    """The same for many chunks: those of each slab, in one part; and those whose sessions have expired.

    What cannot be placed is refused alone.
    """
    together = wave.together.get(id(job)) or sessions.together(job, wave.now)
    if together is not None:
        return [(job, *together)], []
    parts = Parts(job)
    found, newborn, late, refused = _sort(job, sessions, wave)
    if newborn:
        try:
            slab = sessions.slab_of(job.model)
            names = [job.sessions[i] for i in newborn]
            rows = sessions.born_many(names, slab, None, wave, touched).tolist()
        except CarryoverError as error:
            refused |= dict.fromkeys(newborn, error)
        else:
            found[slab] |= dict(zip(newborn, rows, strict=True))
    placed: list[Placed] = []
    for slab, by_index in found.items():
        which = np.array(sorted(by_index))
        placed.append((parts.several(which), slab, np.array([by_index[i] for i in which.tolist()])))
    expired = [parts.several(np.array(late))] if late else []
    alone = [(parts.single(i), why) for i, why in refused.items()]
    wave.divide(job, [*(part for part, _, _ in placed), *expired, *(part for part, _ in alone)])
    for single, why in alone:
        wave.refuse(single, why)
    return placed, expired


def _sort(
    job: AdvanceMany, sessions: Sessions, wave: Wave
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
            if counted_on or isinstance(wave.tombstones.get(session), CarryoverError):
                refused[i] = exactly_once.absent(session, wave.tombstones.get(session))
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
        if scalar(slab.headers, "deadline", row) < wave.now:
            late.append(i)
        else:
            found[slab][i] = row
    return found, newborn, late, refused


def _check_model(session: str, slab: Slab, model: str) -> None:
    name = slab.forecaster.artifact.name
    if model != name:
        raise SessionExists(f"session {shown(session)!r} runs model {name!r}, not {model!r}")
