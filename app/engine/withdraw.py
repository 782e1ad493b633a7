"""What a wave becomes when some of its sessions turn out to be elsewhere, or cannot be kept.

Another replica was ahead of them in the store they share: what was worked out here rests on a state that is
no more. Nothing of it is published; the jobs are asked again in the next wave, which loads the sessions as
they are and decides anew whether each chunk is applied, answered again, or refused (DESIGN section 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from app.engine.wave import Staged, Wave
from app.jobs.answers import AdvancedMany
from app.jobs.jobs import Advance, AdvanceMany, Expire, Forecast, Job
from app.jobs.split import Parts
from app.stores import Lost


def resting(wave: Wave, touched: Iterable[str]) -> set[str]:
    """The sessions that answers of this wave rest on, and that its commit does not compare."""
    compared = {session for staged in wave.staged for session in staged.sessions}
    compared.update(tombstone.session for _, tombstone in wave.buried)
    compared.update(session for job in wave.under_way for session in job.sessions)
    return set(touched) - compared


def withdraw(wave: Wave, lost: Lost) -> None:
    """Take these sessions out of a wave, before its commit or behind it."""
    late = [job for job in wave.late if not _refused(job, lost, wave)]
    wave.moved = [kept for job, outcome in wave.moved for kept in _kept(job, outcome, lost, late, wave)]
    wave.settled = [kept for job, outcome in wave.settled for kept in _kept(job, outcome, lost, late, wave)]
    again = {session for job in late for session in job.sessions}
    wave.staged = [some for staged in wave.staged if (some := _without(staged, lost.keys() | again))]
    wave.buried = [(slab, tombstone) for slab, tombstone in wave.buried if tombstone.session not in lost]
    for session in lost:
        wave.leaving.pop(session, None)
    wave.late = late


def _kept(job: Job, outcome: Any, lost: Lost, late: list[Job], wave: Wave) -> Iterator[tuple[Job, Any]]:
    """What remains of a job and its answer; the rest is refused, or asked again."""
    if isinstance(job, Expire) or lost.keys().isdisjoint(job.sessions):
        yield job, outcome
    elif isinstance(outcome, AdvancedMany) and isinstance(job, AdvanceMany):
        yield from _parted(job, outcome, lost, late, wave)
    else:
        yield from _asked_again(job, lost, late)


def _asked_again(job: Job, lost: Lost, late: list[Job]) -> Iterator[tuple[Job, Any]]:
    failures = [why for session in job.sessions if (why := lost.get(session)) is not None]
    if failures:
        yield job, failures[0]
        return
    if isinstance(job, Advance | Forecast):
        job.progress = None
    late.append(job)


def _parted(
    job: AdvanceMany, outcome: AdvancedMany, lost: Lost, late: list[Job], wave: Wave
) -> Iterator[tuple[Job, Any]]:
    keep = np.array([session not in lost for session in job.sessions])
    which, parts = np.flatnonzero(keep), Parts(job)
    rest = [parts.several(which)] if len(which) else []
    alone = [parts.single(i) for i in np.flatnonzero(~keep).tolist()]
    wave.divide(job, [*rest, *alone])
    for part in rest:
        yield part, _part_of(outcome, keep)
    for single in alone:
        yield from _asked_again(single, lost, late)


def _part_of(outcome: AdvancedMany, keep: np.ndarray[Any, np.dtype[np.bool_]]) -> AdvancedMany:
    outputs = outcome.outputs if isinstance(outcome.outputs, int) else outcome.outputs[keep]
    numbers = outcome.numbers[np.repeat(keep, outcome.steps * outcome.outputs)]
    part = AdvancedMany(outcome.positions[keep], outcome.epochs[keep], outcome.steps[keep], outputs, numbers)
    place = np.cumsum(keep) - 1
    for name, columns in outcome.findings.items():
        part.findings[name] = {int(place[i]): one for i, one in columns.items() if keep[i]}
    return part


def _without(staged: Staged, sessions: Iterable[str]) -> Staged | None:
    gone = set(sessions)
    which = np.array([i for i, session in enumerate(staged.sessions) if session not in gone], np.int64)
    if len(which) == len(staged.sessions):
        return staged
    if not len(which):
        return None
    names = [staged.sessions[i] for i in which.tolist()]
    return Staged(staged.slab, names, staged.rows[which], staged.after.only(which))


def _refused(job: Job, lost: Lost, wave: Wave) -> bool:
    """Whether a job that waits for a burial is refused, because that could not be kept."""
    failures = [why for session in job.sessions if (why := lost.get(session)) is not None]
    if failures:
        wave.settled.append((job, failures[0]))
    return bool(failures)
