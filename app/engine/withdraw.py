"""What a wave becomes when some of its sessions turn out to be elsewhere, or cannot be kept.

Another replica was ahead of them in the store they share: what was worked out here rests on a state that is
no more. Nothing of it is published; the jobs are asked again in the next wave, which loads the sessions as
they are and decides anew whether each chunk is applied, answered again, or refused (DESIGN section 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from app.engine.batch import Batch, StagedRows
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import Advance, AdvanceMany, Expire, Forecast, Job
from app.jobs.split import JobParts
from app.stores import Conflicts


def uncompared_sessions(batch: Batch, touched: Iterable[str]) -> set[str]:
    """The sessions that answers of this wave rest on, and that its commit does not compare."""
    compared = {session for staged in batch.staged for session in staged.sessions}
    compared.update(tombstone.session for _, tombstone in batch.removed)
    compared.update(session for job in batch.unfinished for session in job.sessions)
    return set(touched) - compared


def withdraw(batch: Batch, lost: Conflicts) -> None:
    """Take these sessions out of a wave, before its commit or behind it."""
    late = [job for job in batch.retries if not _refused(job, lost, batch)]
    batch.provisional_answers = [
        kept for job, outcome in batch.provisional_answers for kept in _kept(job, outcome, lost, late, batch)
    ]
    batch.final_answers = [
        kept for job, outcome in batch.final_answers for kept in _kept(job, outcome, lost, late, batch)
    ]
    again = {session for job in late for session in job.sessions}
    batch.staged = [some for staged in batch.staged if (some := _without(staged, lost.keys() | again))]
    batch.removed = [(slab, tombstone) for slab, tombstone in batch.removed if tombstone.session not in lost]
    for session in lost:
        batch.previous_slabs.pop(session, None)
    batch.retries = late


def _kept(
    job: Job, outcome: Any, lost: Conflicts, late: list[Job], batch: Batch
) -> Iterator[tuple[Job, Any]]:
    """What remains of a job and its answer; the rest is refused, or asked again."""
    if isinstance(job, Expire) or lost.keys().isdisjoint(job.sessions):
        yield job, outcome
    elif isinstance(outcome, BulkAnswer) and isinstance(job, AdvanceMany):
        yield from _parted(job, outcome, lost, late, batch)
    else:
        yield from _asked_again(job, lost, late)


def _asked_again(job: Job, lost: Conflicts, late: list[Job]) -> Iterator[tuple[Job, Any]]:
    failures = [why for session in job.sessions if (why := lost.get(session)) is not None]
    if failures:
        yield job, failures[0]
        return
    if isinstance(job, Advance | Forecast):
        job.progress = None
    late.append(job)


def _parted(
    job: AdvanceMany, outcome: BulkAnswer, lost: Conflicts, late: list[Job], batch: Batch
) -> Iterator[tuple[Job, Any]]:
    keep = np.array([session not in lost for session in job.sessions])
    which, parts = np.flatnonzero(keep), JobParts(job)
    rest = [parts.subset(which)] if len(which) else []
    alone = [parts.single(i) for i in np.flatnonzero(~keep).tolist()]
    batch.split(job, [*rest, *alone])
    for part in rest:
        yield part, _part_of(outcome, keep)
    for single in alone:
        yield from _asked_again(single, lost, late)


def _part_of(outcome: BulkAnswer, keep: np.ndarray[Any, np.dtype[np.bool_]]) -> BulkAnswer:
    outputs = outcome.outputs if isinstance(outcome.outputs, int) else outcome.outputs[keep]
    numbers = outcome.numbers[np.repeat(keep, outcome.steps * outcome.outputs)]
    part = BulkAnswer(outcome.positions[keep], outcome.epochs[keep], outcome.steps[keep], outputs, numbers)
    place = np.cumsum(keep) - 1
    for name, columns in outcome.extra_outputs.items():
        part.extra_outputs[name] = {int(place[i]): one for i, one in columns.items() if keep[i]}
    return part


def _without(staged: StagedRows, sessions: Iterable[str]) -> StagedRows | None:
    gone = set(sessions)
    which = np.array([i for i, session in enumerate(staged.sessions) if session not in gone], np.int64)
    if len(which) == len(staged.sessions):
        return staged
    if not len(which):
        return None
    names = [staged.sessions[i] for i in which.tolist()]
    return StagedRows(staged.slab, names, staged.rows[which], staged.after.select(which))


def _refused(job: Job, lost: Conflicts, batch: Batch) -> bool:
    """Whether a job that waits for a burial is refused, because that could not be kept."""
    failures = [why for session in job.sessions if (why := lost.get(session)) is not None]
    if failures:
        batch.final_answers.append((job, failures[0]))
    return bool(failures)
