"""Admission: what of a wave can be done is let in, and the impossible is refused, job by job."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from app.engine import exactly_once
from app.engine.batch import Batch, SessionExpired, touch
from app.engine.inputs import check_intervals, future_inputs
from app.engine.placement import place, place_bulk
from app.engine.residents import Residents
from app.engine.session_view import session_view
from app.engine.step import Stepper, cannot_forecast_error
from app.errors import CarryoverError, NothingObserved, SessionExists, StepFailed
from app.jobs.jobs import (
    Adopt,
    Advance,
    AdvanceMany,
    Create,
    Delete,
    Expire,
    Export,
    Forecast,
    Fork,
    Import,
    Inspect,
    Job,
    Progress,
    Refuse,
    Reset,
    Retire,
)
from app.session.names import id_of
from app.session.recent_answers import reset_sessions
from app.session.rows import scalar
from app.session.slab import Slab
from app.session.state_file import rows_of, state_of


class Admission:
    """Admits the jobs of a wave, one method for each kind of job.

    Parameters
    ----------
    residents : where the sessions are, all that rested in the store brought in
    stepper : gets the chunks that are admitted
    """

    def __init__(self, residents: Residents, stepper: Stepper) -> None:
        self.residents = residents
        self._stepper = stepper

    def admit(self, jobs: Sequence[Job], touched: Collection[str], batch: Batch) -> None:
        """Let in what can be done and refuse the impossible, job by job."""
        late: list[Job] = []
        for job in jobs:
            try:
                if type(job) is Advance:
                    self._stepper.add(job, *place(job, self.residents, touched, batch), batch)
                elif type(job) is AdvanceMany:
                    late += self._admit_many(job, touched, batch)
                else:
                    self._admit_one(job, touched, batch)
            except CarryoverError as error:
                batch.refuse(job, error)
            except SessionExpired:
                late.append(job)
        for group in batch.chunks.values():
            late += self._stepper.admit(group, batch)
        for job in late:
            self._bury_expired(job.sessions, batch)
        batch.retries = late

    def _admit_many(self, job: AdvanceMany, touched: Collection[str], batch: Batch) -> list[AdvanceMany]:
        placed, late = place_bulk(job, self.residents, touched, batch)
        for part, slab, rows in placed:
            try:
                self._stepper.add_bulk(part, slab, rows, batch)
            except CarryoverError as error:
                batch.refuse(part, error)
        return late

    def _admit_one(self, job: Job, touched: Collection[str], batch: Batch) -> None:  # noqa: C901  (a table)
        match job:
            case Forecast():
                self._admit_forecast(job, batch)
            case Create():
                self._admit_create(job, touched, batch)
            case Inspect():
                slab, row = self.residents.require(job.session, batch)
                view = session_view(job.session, slab, slab.read(np.array([row])))
                batch.final_answers.append((job, view))
            case Reset():
                self._admit_reset(job, touched, batch)
            case Fork():
                self._admit_fork(job, touched, batch)
            case Delete():
                slab, row = self.residents.require(job.session, batch, job.at, job.epoch)
                self.residents.remove(job.session, slab, row, "deleted", batch)
                batch.provisional_answers.append((job, None))
            case Export():
                slab, row = self.residents.require(job.session, batch)
                artifact, rows = slab.forecaster.artifact, slab.read(np.array([row]))
                batch.final_answers.append(
                    (job, state_of(id_of(job.session), artifact.name, slab.forecaster.fingerprint, rows))
                )
            case Adopt():
                batch.final_answers.append((job, self.residents.models.adopt(job.forecaster)))
            case Retire():
                self.residents.models.retire(job.model)
                batch.final_answers.append((job, None))
            case Import():
                self._admit_import(job, touched, batch)
            case Refuse():
                raise job.error
            case Expire():
                self._admit_expire(job, batch)

    def _admit_forecast(self, job: Forecast, batch: Batch) -> None:
        slab, row = self.residents.require(job.session, batch) if job.progress is None else self._still(job)
        if job.progress is None:
            if slab.forecaster.missing:
                raise cannot_forecast_error(slab.forecaster)
            if slab.headers["since_reset"][row] == 0:
                raise NothingObserved(
                    f"session {id_of(job.session)!r} has observed nothing since it was created or reset"
                )
            if job.level is not None:
                check_intervals(job.level, slab.forecaster)
            carry = slab.carries[row].copy()
            told = future_inputs(slab.forecaster, slab.forecaster.layout.clock(carry), job.steps, job.future)
            job.progress = Progress(carry, forecast_carry=carry, future_inputs=told)
        batch.forecasts.append((slab, row, job))

    def _still(self, job: Forecast) -> tuple[Slab, int]:
        found = self.residents.find(job.session)
        if found is None:
            raise StepFailed(f"session {id_of(job.session)!r} left in the middle of its forecast")
        return found

    def _admit_create(self, job: Create, touched: Collection[str], batch: Batch) -> None:
        if self.residents.find(job.session) is not None:
            self.residents.require(job.session, batch)
            raise SessionExists(f"session {id_of(job.session)!r} exists")
        slab, carry = self.residents.models.slab_for_learning(job.model, job.learning, job.level)
        rows = np.array([self.residents.create(job.session, slab, job.ttl_seconds, batch, touched)])
        after = slab.read(rows)
        after.carries[0] = carry
        batch.stage(slab, (job.session,), rows, after)
        batch.provisional_answers.append((job, session_view(job.session, slab, after)))

    def _admit_reset(self, job: Reset, touched: Collection[str], batch: Batch) -> None:
        slab, row = self.residents.require(job.session, batch, job.at, job.epoch)
        slab, row = self.residents.move_to_newest(job.session, slab, row, batch, touched)
        rows = np.array([row])
        after = slab.read(rows)
        reset_sessions(after, slab.forecaster)
        touch(after.headers, batch.now)
        batch.stage(slab, (job.session,), rows, after)
        batch.provisional_answers.append((job, session_view(job.session, slab, after)))

    def _admit_fork(self, job: Fork, touched: Collection[str], batch: Batch) -> None:
        slab, row = self.residents.require(job.session, batch, job.at, job.epoch)
        if self.residents.find(job.target) is not None:
            self.residents.require(job.target, batch)
            raise SessionExists(f"session {id_of(job.target)!r} exists")
        ttl_seconds = scalar(slab.headers, "ttl", row)
        rows = np.array([self.residents.create(job.target, slab, ttl_seconds, batch, touched)])
        after = slab.read(rows)
        for name in ("position", "since_reset"):
            after.headers[name] = slab.headers[name][row]
        after.carries[0] = slab.carries[row]
        batch.stage(slab, (job.target,), rows, after)
        batch.provisional_answers.append((job, session_view(job.target, slab, after)))

    def _admit_import(self, job: Import, touched: Collection[str], batch: Batch) -> None:
        slab = self.residents.models.slab_for_fingerprint(job.state.fingerprint)
        after = rows_of(job.state, slab.recent_chunks, slab.forecaster)
        if self.residents.find(job.session) is not None:
            old, _ = self.residents.require(job.session, batch, job.at, job.epoch)
            batch.previous_slabs[job.session] = old
        elif job.at is not None or job.epoch is not None:
            raise exactly_once.missing_session_error(job.session, batch.tombstones.get(job.session))
        row = self.residents.create(job.session, slab, job.state.ttl_seconds, batch, touched)
        after.headers["epoch"] = slab.headers["epoch"][row]
        touch(after.headers, batch.now)
        batch.stage(slab, (job.session,), np.array([row]), after)
        batch.provisional_answers.append((job, session_view(job.session, slab, after)))

    def _admit_expire(self, job: Expire, batch: Batch) -> None:
        self._bury_expired(job.sessions, batch)
        batch.provisional_answers.append((job, None))

    def _bury_expired(self, sessions: Sequence[str], batch: Batch) -> None:
        for session in sessions:
            found = self.residents.find(session)
            if found is not None and found[0].headers["deadline"][found[1]] < batch.now:
                self.residents.remove(session, *found, "expired", batch)
