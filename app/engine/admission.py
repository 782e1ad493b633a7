"""Admission: stages, answers or refuses each job of a batch, without affecting the other jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from app.engine import exactly_once, texts
from app.engine.alerting import check_alert
from app.engine.batch import Batch, SessionExpired, touch
from app.engine.inputs import check_intervals, future_inputs
from app.engine.placement import place_chunks, place_unusual
from app.engine.residents import Residents
from app.engine.session_history import session_history
from app.engine.session_view import session_view
from app.engine.step import Stepper, cannot_forecast_error
from app.errors import CarryoverError, NothingObserved, SessionExists, StepFailed, Unprocessable
from app.jobs.jobs import (
    Adopt,
    Advance,
    AdvanceMany,
    Annotate,
    Create,
    Delete,
    Expire,
    Export,
    Forecast,
    Fork,
    Import,
    Inspect,
    Job,
    Outcome,
    Progress,
    ReadHistory,
    Refuse,
    Reset,
    Retire,
    Watch,
    Write,
)
from app.session.names import id_of
from app.session.notes import NO_NOTES, Notes, changed_labels, shared_notes
from app.session.recent_answers import reset_sessions
from app.session.rows import Rows, scalar
from app.session.slab import Slab
from app.session.state_file import rows_of, state_of
from models.forecaster import Forecaster

log = logging.getLogger("carryover.engine")
SHOWN_SERIES = 10  # in an error


class Admission:
    """Admits the jobs of a batch.

    Parameters
    ----------
    residents : the sessions; the sessions of the batch have been loaded
    stepper : gets the chunks
    """

    def __init__(self, residents: Residents, stepper: Stepper) -> None:
        self._residents = residents
        self._stepper = stepper
        self._commands = _Commands(residents)

    def admit(self, batch: Batch) -> None:
        """Admit every job of the batch. If a session has expired, it is removed and its job retried."""
        expired: list[Job] = []
        for job in batch.jobs:
            try:
                if type(job) is AdvanceMany:
                    expired += self._admit_chunks(job, batch)
                elif type(job) is Advance:
                    self._stepper.add_unusual(job, *place_unusual(job, self._residents, batch), batch)
                elif type(job) is Write:
                    texts.begin(job, self._residents, batch)
                else:
                    self._commands.admit(job, batch)
            except CarryoverError as error:
                batch.refuse(job, error)
            except SessionExpired:
                expired.append(job)
            except Exception as error:
                log.exception("a job could not be admitted; the other jobs continue")
                batch.refuse(job, StepFailed(f"the request failed: {error}; the session was not advanced"))
        for group in batch.chunks.values():
            expired += self._stepper.admit(group, batch)
        for job in expired:
            remove_expired(job.sessions, self._residents, batch)
        batch.retries = expired

    def _admit_chunks(self, job: AdvanceMany, batch: Batch) -> list[AdvanceMany]:
        placed, expired = place_chunks(job, self._residents, batch)
        for part, slab, rows in placed:
            try:
                self._stepper.add(part, slab, rows, batch)
            except CarryoverError as error:
                batch.refuse(part, error)
        return expired


class _Commands:
    """Admits the jobs that are not chunks: creations, resets, forks, exports and the like."""

    def __init__(self, residents: Residents) -> None:
        self._residents = residents

    def admit(self, job: Job, batch: Batch) -> None:
        """Stage or answer the job.

        Raises
        ------
        CarryoverError : it is refused
        SessionExpired
        """
        match job:
            case Forecast():
                self._forecast(job, batch)
            case Create():
                self._create(job, batch)
            case Annotate():
                self._annotate(job, batch)
            case Reset():
                self._reset(job, batch)
            case Fork():
                self._fork(job, batch)
            case Import():
                self._import(job, batch)
            case Delete():
                slab, row = self._residents.require(job.session, batch, job.at, job.epoch)
                self._residents.remove(job.session, slab, row, "deleted", batch)
                batch.answers_if_committed.append((job, None))
            case Expire():
                remove_expired(job.sessions, self._residents, batch)
                batch.answers_if_committed.append((job, None))
            case Refuse():
                raise job.error
            case _:
                batch.final_answers.append((job, self._read_or_configure(job, batch)))

    def _read_or_configure(self, job: Job, batch: Batch) -> Outcome:
        """Run a job that changes no session, and return its answer."""
        match job:
            case Inspect():
                slab, row = self._residents.require(job.session, batch)
                return session_view(job.session, slab, slab.read(np.array([row])))
            case ReadHistory():
                slab, row = self._residents.require(job.session, batch)
                return session_history(job.session, slab, row, job.first, job.limit)
            case Watch():
                slab, row = self._residents.require(job.session, batch)
                return session_history(job.session, slab, row)
            case Export():
                slab, row = self._residents.require(job.session, batch, job.at, job.epoch)
                forecaster, rows = slab.forecaster, slab.read(np.array([row]))
                return state_of(id_of(job.session), forecaster.artifact.name, forecaster.fingerprint, rows)
            case Adopt():
                return self._residents.models.exchange(job.forecaster)
            case Retire():
                self._residents.models.retire(job.model)
        return None

    def _forecast(self, job: Forecast, batch: Batch) -> None:
        if job.progress is not None:
            slab, row = self._find_again(job)
        else:
            slab, row = self._residents.require(job.session, batch)
            job.progress = _begin_forecast(job, slab, row)
        batch.forecasts.append((slab, row, job))

    def _find_again(self, job: Forecast) -> tuple[Slab, int]:
        """Find the slab and row of an unfinished forecast's session, even if it has expired meanwhile."""
        found = self._residents.find(job.session)
        if found is None:
            raise StepFailed(f"session {id_of(job.session)!r} was removed during its forecast")
        return found

    def _create(self, job: Create, batch: Batch) -> None:
        self._check_absent(job.session, batch)
        slab, carry = self._residents.models.slab_for_learning(job.model, job.learning, job.level)
        known = slab.forecaster.begin_series(carry, job.series or id_of(job.session))
        if job.series is not None and not known:
            raise _unknown_series(job.series, slab.forecaster)
        row = self._residents.create(job.session, slab, job.ttl_seconds, batch)
        after = slab.read(np.array([row]))
        after.carries[0] = carry
        check_alert(job.alert, slab.forecaster)
        _note(after, Notes(tuple(job.labels), job.alert))
        _stage(job, job.session, slab, row, after, batch)

    def _annotate(self, job: Annotate, batch: Batch) -> None:
        slab, row = self._residents.require(job.session, batch, job.at, job.epoch)
        after = slab.read(np.array([row]))
        notes = after.notes.get(0, NO_NOTES)
        labels = changed_labels(() if job.replaces_labels else notes.labels, job.labels)
        if job.changes_alert:
            check_alert(job.alert, slab.forecaster)
            _note(after, Notes(labels, job.alert, notes.lowered().state))
        else:
            _note(after, Notes(labels, notes.alert, notes.state))
        _stage(job, job.session, slab, row, after, batch, keeps_past=True)

    def _reset(self, job: Reset, batch: Batch) -> None:
        slab, row = self._residents.require(job.session, batch, job.at, job.epoch)
        slab, row = self._residents.move_to_newest(job.session, slab, row, batch)
        after = slab.read(np.array([row]))
        reset_sessions(after, slab.forecaster)
        touch(after.headers, batch.now)
        _stage(job, job.session, slab, row, after, batch)

    def _fork(self, job: Fork, batch: Batch) -> None:
        slab, origin = self._residents.require(job.session, batch, job.at, job.epoch)
        self._check_absent(job.target, batch)
        row = self._residents.create(job.target, slab, scalar(slab.headers, "ttl", origin), batch)
        after = slab.read(np.array([row]))
        for name in ("position", "since_reset"):
            after.headers[name] = slab.headers[name][origin]
        after.carries[0] = slab.carries[origin]
        _note(after, slab.notes.get(origin, NO_NOTES).lowered())
        _stage(job, job.target, slab, row, after, batch)

    def _import(self, job: Import, batch: Batch) -> None:
        if job.only_new:
            self._check_absent(job.session, batch)
        slab = self._residents.models.slab_for_fingerprint(job.state.fingerprint, job.state.model)
        after = rows_of(job.state, slab.recent_chunks, slab.forecaster)
        if self._residents.find(job.session) is not None:
            previous, _ = self._residents.require(job.session, batch, job.at, job.epoch)
            batch.previous_slabs[job.session] = previous
        elif job.at is not None or job.epoch is not None:
            raise exactly_once.missing_session_error(job.session, batch.missing.get(job.session))
        row = self._residents.create(job.session, slab, job.state.ttl_seconds, batch)
        after.headers["epoch"] = slab.headers["epoch"][row]
        touch(after.headers, batch.now)
        _stage(job, job.session, slab, row, after, batch)

    def _check_absent(self, session: str, batch: Batch) -> None:
        if self._residents.find(session) is not None:
            self._residents.require(session, batch)  # if it has expired, it is removed and the job runs again
            raise SessionExists(f"session {id_of(session)!r} exists: delete it first, or take another id")


def remove_expired(sessions: Sequence[str], residents: Residents, batch: Batch) -> None:
    """Stage the removal of those of these sessions that have expired."""
    for session in sessions:
        found = residents.find(session)
        if found is not None and found[0].headers["deadline"][found[1]] < batch.now:
            residents.remove(session, *found, "expired", batch)


def _begin_forecast(job: Forecast, slab: Slab, row: int) -> Progress:
    """Begin a forecast: copy the carry, and collect the future inputs that the client knows.

    Raises
    ------
    CannotForecast, NothingObserved, Unprocessable
    """
    if slab.forecaster.missing:
        raise cannot_forecast_error(slab.forecaster)
    if slab.headers["since_reset"][row] == 0:
        raise NothingObserved(
            f"session {id_of(job.session)!r} has observed nothing since it was created or reset"
        )
    if job.level is not None:
        check_intervals(job.level, slab.forecaster)
    for level in job.levels:
        check_intervals(level, slab.forecaster, "levels")
    carry = slab.carries[row].copy()
    inputs = future_inputs(slab.forecaster, slab.forecaster.layout.clock(carry), job.steps, job.future)
    return Progress(carry, forecast_carry=carry, future_inputs=inputs)


def _unknown_series(series: str, forecaster: Forecaster) -> Unprocessable:
    names = () if forecaster.scales is None else forecaster.scales.names
    known = ", ".join(names[:SHOWN_SERIES]) + (", ..." if len(names) > SHOWN_SERIES else "")
    trained = f"; it was trained on: {known}" if names else ": it has one series, without a name"
    sentence = f"{forecaster.artifact.name!r} was not trained on a series {series[:80]!r}{trained}"
    return Unprocessable(sentence, field="series")


def _note(rows: Rows, notes: Notes) -> None:
    """Set the notes of the only session of `rows`."""
    rows.notes = {0: shared_notes(notes)} if notes else {}


def _stage(
    job: Job, session: str, slab: Slab, row: int, after: Rows, batch: Batch, *, keeps_past: bool = False
) -> None:
    view = session_view(session, slab, after)  # first, so that nothing is staged if it raises
    batch.stage(slab, (session,), np.array([row]), after, keeps_past=keeps_past)
    batch.answers_if_committed.append((job, view))
