"""Admission: what of a wave can be done is let in, and the impossible is refused, job by job."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from app.engine import exactly_once
from app.engine.inputs import ahead, check_asked
from app.engine.placement import place, place_many
from app.engine.residents import Residents
from app.engine.session_view import session_view
from app.engine.step import Stepper, cannot_forecast
from app.engine.wave import Late, Wave, touch
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
from app.session.names import shown
from app.session.remembered import restart
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

    def admit(self, jobs: Sequence[Job], touched: Collection[str], wave: Wave) -> None:
        """Let in what can be done and refuse the impossible, job by job."""
        late: list[Job] = []
        for job in jobs:
            try:
                if type(job) is Advance:
                    self._stepper.add(job, *place(job, self.residents, touched, wave), wave)
                elif type(job) is AdvanceMany:
                    late += self._admit_many(job, touched, wave)
                else:
                    self._admit_one(job, touched, wave)
            except CarryoverError as error:
                wave.refuse(job, error)
            except Late:
                late.append(job)
        for group in wave.chunks.values():
            late += self._stepper.admit(group, wave)
        for job in late:
            self._bury_expired(job.sessions, wave)
        wave.late = late

    def _admit_many(self, job: AdvanceMany, touched: Collection[str], wave: Wave) -> list[AdvanceMany]:
        placed, late = place_many(job, self.residents, touched, wave)
        for part, slab, rows in placed:
            try:
                self._stepper.add_many(part, slab, rows, wave)
            except CarryoverError as error:
                wave.refuse(part, error)
        return late

    def _admit_one(self, job: Job, touched: Collection[str], wave: Wave) -> None:  # noqa: C901  (a table)
        match job:
            case Forecast():
                self._admit_forecast(job, wave)
            case Create():
                self._admit_create(job, touched, wave)
            case Inspect():
                slab, row = self.residents.here(job.session, wave)
                view = session_view(job.session, slab, slab.read(np.array([row])))
                wave.settled.append((job, view))
            case Reset():
                self._admit_reset(job, touched, wave)
            case Fork():
                self._admit_fork(job, touched, wave)
            case Delete():
                slab, row = self.residents.here(job.session, wave, job.at, job.epoch)
                self.residents.bury(job.session, slab, row, "deleted", wave)
                wave.moved.append((job, None))
            case Export():
                slab, row = self.residents.here(job.session, wave)
                artifact, rows = slab.forecaster.artifact, slab.read(np.array([row]))
                wave.settled.append(
                    (job, state_of(shown(job.session), artifact.name, slab.forecaster.fingerprint, rows))
                )
            case Adopt():
                wave.settled.append((job, self.residents.models.adopt(job.forecaster)))
            case Retire():
                self.residents.models.retire(job.model)
                wave.settled.append((job, None))
            case Import():
                self._admit_import(job, touched, wave)
            case Refuse():
                raise job.error
            case Expire():
                self._admit_expire(job, wave)

    def _admit_forecast(self, job: Forecast, wave: Wave) -> None:
        slab, row = self.residents.here(job.session, wave) if job.progress is None else self._still(job)
        if job.progress is None:
            if slab.forecaster.missing:
                raise cannot_forecast(slab.forecaster)
            if slab.headers["since_reset"][row] == 0:
                raise NothingObserved(
                    f"session {shown(job.session)!r} has observed nothing since it was created or reset"
                )
            if job.level is not None:
                check_asked(job.level, slab.forecaster)
            carry = slab.carries[row].copy()
            told = ahead(slab.forecaster, slab.forecaster.clock(carry), job.steps, job.future)
            job.progress = Progress(carry, rolling=carry, ahead=told)
        wave.rolling.append((slab, row, job))

    def _still(self, job: Forecast) -> tuple[Slab, int]:
        found = self.residents.find(job.session)
        if found is None:
            raise StepFailed(f"session {shown(job.session)!r} left in the middle of its forecast")
        return found

    def _admit_create(self, job: Create, touched: Collection[str], wave: Wave) -> None:
        if self.residents.find(job.session) is not None:
            self.residents.here(job.session, wave)
            raise SessionExists(f"session {shown(job.session)!r} exists")
        slab, carry = self.residents.models.chosen(job.model, job.learning, job.level)
        rows = np.array([self.residents.born(job.session, slab, job.ttl_seconds, wave, touched)])
        after = slab.read(rows)
        after.carries[0] = carry
        wave.stage(slab, (job.session,), rows, after)
        wave.moved.append((job, session_view(job.session, slab, after)))

    def _admit_reset(self, job: Reset, touched: Collection[str], wave: Wave) -> None:
        slab, row = self.residents.here(job.session, wave, job.at, job.epoch)
        slab, row = self.residents.newest(job.session, slab, row, wave, touched)
        rows = np.array([row])
        after = slab.read(rows)
        restart(after, slab.forecaster)
        touch(after.headers, wave.now)
        wave.stage(slab, (job.session,), rows, after)
        wave.moved.append((job, session_view(job.session, slab, after)))

    def _admit_fork(self, job: Fork, touched: Collection[str], wave: Wave) -> None:
        slab, row = self.residents.here(job.session, wave, job.at, job.epoch)
        if self.residents.find(job.into) is not None:
            self.residents.here(job.into, wave)
            raise SessionExists(f"session {shown(job.into)!r} exists")
        ttl_seconds = scalar(slab.headers, "ttl", row)
        rows = np.array([self.residents.born(job.into, slab, ttl_seconds, wave, touched)])
        after = slab.read(rows)
        for name in ("position", "since_reset"):
            after.headers[name] = slab.headers[name][row]
        after.carries[0] = slab.carries[row]
        wave.stage(slab, (job.into,), rows, after)
        wave.moved.append((job, session_view(job.into, slab, after)))

    def _admit_import(self, job: Import, touched: Collection[str], wave: Wave) -> None:
        slab = self.residents.models.slab_by(job.state.fingerprint)
        after = rows_of(job.state, slab.recent_chunks, slab.forecaster)
        if self.residents.find(job.session) is not None:
            old, _ = self.residents.here(job.session, wave, job.at, job.epoch)
            wave.leaving[job.session] = old
        elif job.at is not None or job.epoch is not None:
            raise exactly_once.absent(job.session, wave.tombstones.get(job.session))
        row = self.residents.born(job.session, slab, job.state.ttl_seconds, wave, touched)
        after.headers["epoch"] = slab.headers["epoch"][row]
        touch(after.headers, wave.now)
        wave.stage(slab, (job.session,), np.array([row]), after)
        wave.moved.append((job, session_view(job.session, slab, after)))

    def _admit_expire(self, job: Expire, wave: Wave) -> None:
        self._bury_expired(job.sessions, wave)
        wave.moved.append((job, None))

    def _bury_expired(self, sessions: Sequence[str], wave: Wave) -> None:
        for session in sessions:
            found = self.residents.find(session)
            if found is not None and found[0].headers["deadline"][found[1]] < wave.now:
                self.residents.bury(session, *found, "expired", wave)
