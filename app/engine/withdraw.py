"""Takes sessions out of a batch if another replica has changed them, or if they cannot be written.

If another replica has changed a session, what the batch computed for it starts from an outdated state.
Nothing of it is published. Its jobs run again in the next batch. That batch loads the session from the store,
and decides again whether each chunk is applied, replayed or refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from app.engine.batch import Batch, StagedRows
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import Advance, AdvanceMany, Expire, Forecast, Job, Outcome
from app.jobs.split import JobParts
from app.stores import Conflicts


def uncompared_sessions(batch: Batch) -> set[str]:
    """The sessions that answers of this batch depend on, and that its commit does not compare."""
    compared = {session for staged in batch.staged for session in staged.sessions}
    compared.update(tombstone.session for _, tombstone in batch.removed)
    compared.update(session for job in batch.unfinished for session in job.sessions)
    return set(batch.sessions) - compared


def withdraw(batch: Batch, conflicts: Conflicts) -> None:
    """Take these sessions out of a batch, before or after its commit.

    Parameters
    ----------
    conflicts : by session, the error with which its jobs are refused; None if they run again
    """
    withdrawal = _Withdrawal(batch, conflicts)
    retries = [job for job in batch.retries if not withdrawal.refuse(job)]
    batch.answers_if_committed = withdrawal.keep(batch.answers_if_committed)
    batch.final_answers = withdrawal.keep(batch.final_answers) + withdrawal.refusals
    batch.retries = retries + withdrawal.retries
    gone = set(conflicts)
    gone.update(session for job in batch.retries for session in job.sessions)
    gone.update(session for job, _ in withdrawal.refusals for session in job.sessions)
    batch.staged = [rest for staged in batch.staged if (rest := _without(staged, gone))]
    batch.removed = [
        (slab, tombstone) for slab, tombstone in batch.removed if tombstone.session not in conflicts
    ]
    batch.alerts = [alert for alert in batch.alerts if alert.session not in gone]
    for session in conflicts:
        batch.previous_slabs.pop(session, None)


class _Withdrawal:
    """Sorts a batch's answers. Some are kept; the other jobs are refused or run again."""

    def __init__(self, batch: Batch, conflicts: Conflicts) -> None:
        self.refusals: list[tuple[Job, Outcome]] = []
        self.retries: list[Job] = []
        self._batch = batch
        self._conflicts = conflicts

    def keep(self, answers: Iterable[tuple[Job, Outcome]]) -> list[tuple[Job, Outcome]]:
        """Return the answers that do not depend on a withdrawn session."""
        kept: list[tuple[Job, Outcome]] = []
        for job, outcome in answers:
            if isinstance(job, Expire) or self._conflicts.keys().isdisjoint(job.sessions):
                kept.append((job, outcome))
            elif isinstance(outcome, BulkAnswer) and isinstance(job, AdvanceMany):
                kept += self._keep_rest(job, outcome)
            else:
                self._refuse_or_retry(job)
        return kept

    def refuse(self, job: Job) -> bool:
        """Refuse a job if one of its sessions cannot be written. Returns whether it was refused."""
        errors = [error for session in job.sessions if (error := self._conflicts.get(session)) is not None]
        if errors:
            self.refusals.append((job, errors[0]))
        return bool(errors)

    def _refuse_or_retry(self, job: Job) -> None:
        if not self.refuse(job):
            if isinstance(job, Advance | Forecast):
                job.progress = None
            self.retries.append(job)

    def _keep_rest(self, job: AdvanceMany, outcome: BulkAnswer) -> Iterator[tuple[Job, Outcome]]:
        """Keep the answer of a bulk job's other sessions. Each withdrawn session gets a job of its own."""
        keep = np.array([session not in self._conflicts for session in job.sessions])
        kept_indexes, parts = np.flatnonzero(keep), JobParts(job)
        rest = [parts.subset(kept_indexes)] if len(kept_indexes) else []
        withdrawn = [parts.subset(index) for index in np.flatnonzero(~keep)[:, None]]
        self._batch.split(job, [*rest, *withdrawn])
        for part in withdrawn:
            self._refuse_or_retry(part)
        for part in rest:
            yield part, outcome.select(kept_indexes)


def _without(staged: StagedRows, sessions: Iterable[str]) -> StagedRows | None:
    """The staged rows without these sessions; None if no row is left."""
    gone = set(sessions)
    kept = np.array([i for i, session in enumerate(staged.sessions) if session not in gone], np.int64)
    if len(kept) == len(staged.sessions):
        return staged
    if not len(kept):
        return None
    names = [staged.sessions[i] for i in kept.tolist()]
    observed = None if staged.observed is None else staged.observed.select(kept)
    return StagedRows(
        staged.slab, names, staged.rows[kept], staged.after.select(kept), observed, staged.keeps_past
    )
