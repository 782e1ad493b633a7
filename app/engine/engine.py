"""The engine: one owner of all state, and its tick (DESIGN section 4).

    collect -> admit -> step -> commit -> publish -> reply

It runs on the event loop, and only a store that waits for a disk or a network is called from a thread.
There is no batching window: whatever arrived while the last tick ran is the next wave. A session is in
a wave once, so queue order is session order. A chunk too long for one wave is carried through several,
its session set aside, its half-way carry with the job: what is resident is always a whole chunk's end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from app.config import Settings
from app.engine import exactly_once
from app.engine.fair_share import BULK, Lanes
from app.engine.inputs import ahead, check_asked
from app.engine.placement import place, place_many
from app.engine.queue import Turns
from app.engine.residents import Sessions
from app.engine.step import Stepper, cannot_forecast
from app.engine.warm_start import warm_up
from app.engine.watchers import Watches
from app.engine.wave import Late, Wave, touch
from app.errors import (
    CarryoverError,
    NothingObserved,
    Overloaded,
    SessionExists,
    StepFailed,
    Stopping,
    StoreFailed,
)
from app.jobs.answers import Advanced, AdvancedMany
from app.jobs.jobs import (
    Adopt,
    Advance,
    AdvanceMany,
    Counts,
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
    answer_to,
)
from app.jobs.session_list import Names
from app.jobs.split import cut
from app.observability.metrics import Metrics
from app.observability.tracing import Tracing
from app.session.names import shown
from app.session.remembered import restart
from app.session.rows import scalar
from app.session.slab import Slab
from app.session.state_file import rows_of, state_of
from app.stores import Store
from models.forecaster import Forecaster

log = logging.getLogger("carryover.engine")

LINGER_SECONDS = 100e-6  # a client that waits for each answer sends its next chunk within this
IN_VAIN, SELDOM = 3, 64  # after so many times in a row that nothing came it is tried in one tick of so many
SWEEP_SECONDS = 1.0
EXPIRED_AT_REST = 1000  # sessions in the store that one sweep buries
SWEEP_ROWS = 65_536  # looked at for expiry in one sweep of one slab: about a third of a millisecond


class Engine:
    """Owner of the slabs, the networks and the store.

    Parameters
    ----------
    forecasters : the models, one a name; the first is the default unless settings name one
    store : where sessions rest that are not resident
    settings : the limits
    clock : seconds since 1970
    older : networks that sessions may still run on, and no new one gets
    """

    def __init__(
        self,
        forecasters: Sequence[Forecaster],
        store: Store,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        older: Sequence[Forecaster] = (),
    ) -> None:
        self.metrics = Metrics()
        self.tracing: Tracing | None = None  # told of each wave
        self.sessions = Sessions(forecasters, store, settings, self._call_store, older, self.metrics)
        self.settings = settings
        self.clock = clock
        self.watches = Watches()
        self.stopping = False
        self.draining = False  # asked to be sent no more, and serves what comes all the same
        self.lanes = Lanes(settings.tenant_share)
        self._turns = Turns()
        self._waiting_bytes = 0
        self._under_way: list[Job] = []  # with progress; their sessions are set aside
        self._awake = asyncio.Event()
        self._stepper = Stepper(settings.recent_bytes)
        self.ticks = 0
        self._jobs = 0  # of the last wave
        self._in_vain = 0  # times in a row that it lingered and nothing came
        self._thread = ThreadPoolExecutor(1, "carryover-store") if store.blocks else None
        self._swept: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._upkeep: list[asyncio.Task[None]] = []
        self._ailing = ""  # what the store failed with, until its upkeep succeeds

    def start(self) -> None:
        """Begin to tick on the running event loop."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name="engine")
        self._upkeep = [loop.create_task(self._sweep(), name="engine-sweep")]
        if self.sessions.store.tend_seconds:
            self._upkeep.append(loop.create_task(self._tend_regularly(), name="engine-tend"))

    async def stop(self) -> None:
        """Finish what was accepted, refuse what comes, close the store."""
        self.stopping = True
        for task in self._upkeep:
            task.cancel()
        self._awake.set()
        if self._task is not None:
            await self._task
        try:
            await self._call_store(self.sessions.store.close)
        except StoreFailed as error:
            log.error("what was answered last is not kept: %s", error)
        if self._thread is not None:
            self._thread.shutdown()

    def submit(self, job: Job) -> None:
        """Queue a job; its `reply` is called exactly once.

        Raises
        ------
        Stopping, Overloaded : it was not queued, and `reply` is not called
        """
        if self.stopping:
            raise Stopping("the server is stopping")
        if len(self._turns) >= self.settings.queue_jobs:
            raise Overloaded(f"{self.settings.queue_jobs} jobs are waiting already")
        if self._waiting_bytes > self.settings.queue_bytes:
            raise Overloaded(f"{self.settings.queue_bytes} bytes of observations are waiting already")
        if type(job) is AdvanceMany:
            most = min(self.settings.wave_sessions, BULK * self.lanes.width)
            for part in cut(job, most, self._stepper.observations):
                self._put(part)
        else:
            self._put(job)
        self._awake.set()

    def _put(self, job: Job) -> None:
        self._turns.add(job)
        self._waiting_bytes += job.nbytes

    async def ask(self, job: Job) -> Any:
        """Queue a job and wait for its answer.

        Raises
        ------
        CarryoverError : what the job was refused with
        """
        return await answer_to(self.submit, job)

    async def names(
        self, after: str, limit: int, model: str | None = None, prefix: str = ""
    ) -> list[tuple[str, str]]:
        """(name, model) of up to `limit` sessions behind `after` that begin with `prefix`, in order."""
        return await self.sessions.names(after, limit, model, prefix)

    def last_pass(self, model: str) -> float:
        """Seconds that the newest pass of this model took; 0 for one that is not served."""
        slab = self.sessions.current.get(model)
        return 0.0 if slab is None else self._stepper.last_pass(slab)

    @property
    def waiting(self) -> int:
        """Sessions' turns that wait in the queue."""
        return len(self._turns)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of observations that wait in the queue."""
        return self._waiting_bytes

    def unready(self) -> list[str]:
        """Why no requests should be sent here; empty when they may."""
        leaving = self.stopping or self.draining
        told = ["stopping"] * leaving + [self._ailing] * bool(self._ailing)
        return told + ["no model is loaded"] * (not self.sessions.current) + self.dead()

    def dead(self) -> list[str]:
        """Why this process will never answer a chunk again; empty while it lives."""
        stopped = self._task is not None and self._task.done() and not self.stopping
        return ["the engine has stopped"] * stopped

    async def _run(self) -> None:
        # What leaves the finite numbers is looked for and refused: no client may fill the log with warnings.
        with np.errstate(over="ignore", invalid="ignore"):
            while not (self.stopping and not self._turns and not self._under_way):
                await self._awake.wait()
                self._awake.clear()
                while self._turns or self._under_way:
                    await self._tick()
                    if self.sessions.store.due:
                        await self._tend()
                    await asyncio.sleep(0)  # what arrived meanwhile is read now: it is the next wave
                    if not self._turns and not self._under_way:
                        await self._linger()

    async def _linger(self) -> None:
        """Look out for a client that waits for each answer: to be woken by its next chunk costs more.

        Behind a wave of several there is no such look-out: it would find the first of them and not wait for
        the others, and many small waves cost more than a large one.
        """
        if self._jobs > 1 or (self._in_vain >= IN_VAIN and self.ticks % SELDOM):
            return
        until = time.perf_counter() + LINGER_SECONDS
        while time.perf_counter() < until:
            if self._turns:
                self._in_vain = 0
                return
            await asyncio.sleep(0)
        self._in_vain += 1

    async def _tick(self) -> None:
        stages = self.metrics.stages
        stages.begin()
        self.ticks += 1
        wave = Wave(self.clock())
        jobs, touched = self._collect()
        self._jobs = len(jobs)
        self.metrics.waves.add(len(touched))
        if self.tracing is not None:
            self.tracing.wave_begins(len(touched))
        stages.ended("collect")
        try:
            await self.sessions.bring_in(jobs, touched, wave)
            if len(self.sessions.slabs) > len(self.sessions.current):
                warm_up(self.sessions, touched)
                wave.together.clear()  # who starts warm has moved
            self._admit(jobs, touched, wave)
            stages.ended("admit")
            self._stepper.step(wave)
            stages.ended("step")
            await self.sessions.commit(wave, touched)
            stages.ended("commit")
            self.sessions.publish(wave)
            if self.watches:
                self.watches.tell(wave.moved, wave.buried)
            stages.ended("publish")
        except Exception as error:  # noqa: BLE001  (whatever it was, every client of the wave is answered)
            self._fail(jobs, wave, error)
        self.sessions.abandon(wave)
        self._under_way = wave.under_way
        self._move_up(touched, wave)
        self._reply(wave)
        stages.ended("reply")
        if self.tracing is not None:
            self.tracing.wave_ends()

    def _move_up(self, touched: Names, wave: Wave) -> None:
        """Let those behind the wave's jobs lead; what was buried under a job is asked again without it."""
        kept = {session for job in (*wave.under_way, *wave.late) for session in job.sessions}
        self._turns.finish(touched - kept if kept else touched)
        for job in wave.late:
            self._turns.again(job)
            self._waiting_bytes += job.nbytes

    def _collect(self) -> tuple[list[Job], Names]:
        """The next wave: what goes on from the last one, and whatever is ready, up to the bounds."""
        jobs = self._under_way
        touched = {session for job in jobs for session in job.sessions}
        room = self.settings.wave_sessions - len(touched)
        self.lanes.look()
        self._stepper.shared = self.lanes.shared
        taken = self._turns.take(room, self._stepper.nbytes, self.lanes.width) if room > 0 else []
        if len(taken) == 1 and not jobs and type(taken[0]) is AdvanceMany:
            self._waiting_bytes -= taken[0].nbytes
            # As it is: a copy of a thousand takes longer than many a wave.
            return taken, taken[0].sessions.once
        for job in taken:
            jobs.append(job)
            self._waiting_bytes -= job.nbytes
            if type(job) is Advance:  # nearly every job
                touched.add(job.session)
            else:
                touched.update(job.sessions)
        return jobs, touched

    def _admit(self, jobs: Sequence[Job], touched: Collection[str], wave: Wave) -> None:
        """Let in what can be done and refuse the impossible, job by job."""
        late: list[Job] = []
        for job in jobs:
            try:
                if type(job) is Advance:
                    self._stepper.add(job, *place(job, self.sessions, touched, wave), wave)
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
        placed, late = place_many(job, self.sessions, touched, wave)
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
                slab, row = self.sessions.here(job.session, wave)
                view = self.sessions.view(job.session, slab, slab.read(np.array([row])))
                wave.settled.append((job, view))
            case Reset():
                self._admit_reset(job, touched, wave)
            case Fork():
                self._admit_fork(job, touched, wave)
            case Delete():
                slab, row = self.sessions.here(job.session, wave, job.at, job.epoch)
                self.sessions.bury(job.session, slab, row, "deleted", wave)
                wave.moved.append((job, None))
            case Export():
                slab, row = self.sessions.here(job.session, wave)
                artifact, rows = slab.forecaster.artifact, slab.read(np.array([row]))
                wave.settled.append(
                    (job, state_of(shown(job.session), artifact.name, slab.forecaster.fingerprint, rows))
                )
            case Adopt():
                wave.settled.append((job, self.sessions.adopt(job.forecaster)))
            case Retire():
                self.sessions.retire(job.model)
                wave.settled.append((job, None))
            case Import():
                self._admit_import(job, touched, wave)
            case Refuse():
                raise job.error
            case Expire():
                self._admit_expire(job, wave)

    def _admit_forecast(self, job: Forecast, wave: Wave) -> None:
        slab, row = self.sessions.here(job.session, wave) if job.progress is None else self._still(job)
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
        found = self.sessions.find(job.session)
        if found is None:
            raise StepFailed(f"session {shown(job.session)!r} left in the middle of its forecast")
        return found

    def _admit_create(self, job: Create, touched: Collection[str], wave: Wave) -> None:
        if self.sessions.find(job.session) is not None:
            self.sessions.here(job.session, wave)
            raise SessionExists(f"session {shown(job.session)!r} exists")
        slab, carry = self.sessions.chosen(job.model, job.learning, job.level)
        rows = np.array([self.sessions.born(job.session, slab, job.ttl_seconds, wave, touched)])
        after = slab.read(rows)
        after.carries[0] = carry
        wave.stage(slab, (job.session,), rows, after)
        wave.moved.append((job, self.sessions.view(job.session, slab, after)))

    def _admit_reset(self, job: Reset, touched: Collection[str], wave: Wave) -> None:
        slab, row = self.sessions.here(job.session, wave, job.at, job.epoch)
        slab, row = self.sessions.newest(job.session, slab, row, wave, touched)
        rows = np.array([row])
        after = slab.read(rows)
        restart(after, slab.forecaster)
        touch(after.headers, wave.now)
        wave.stage(slab, (job.session,), rows, after)
        wave.moved.append((job, self.sessions.view(job.session, slab, after)))

    def _admit_fork(self, job: Fork, touched: Collection[str], wave: Wave) -> None:
        slab, row = self.sessions.here(job.session, wave, job.at, job.epoch)
        if self.sessions.find(job.into) is not None:
            self.sessions.here(job.into, wave)
            raise SessionExists(f"session {shown(job.into)!r} exists")
        ttl_seconds = scalar(slab.headers, "ttl", row)
        rows = np.array([self.sessions.born(job.into, slab, ttl_seconds, wave, touched)])
        after = slab.read(rows)
        for name in ("position", "since_reset"):
            after.headers[name] = slab.headers[name][row]
        after.carries[0] = slab.carries[row]
        wave.stage(slab, (job.into,), rows, after)
        wave.moved.append((job, self.sessions.view(job.into, slab, after)))

    def _admit_import(self, job: Import, touched: Collection[str], wave: Wave) -> None:
        slab = self.sessions.slab_by(job.state.fingerprint)
        after = rows_of(job.state, slab.recent_chunks, slab.forecaster)
        if self.sessions.find(job.session) is not None:
            old, _ = self.sessions.here(job.session, wave, job.at, job.epoch)
            wave.leaving[job.session] = old
        elif job.at is not None or job.epoch is not None:
            raise exactly_once.absent(job.session, wave.tombstones.get(job.session))
        row = self.sessions.born(job.session, slab, job.state.ttl_seconds, wave, touched)
        after.headers["epoch"] = slab.headers["epoch"][row]
        touch(after.headers, wave.now)
        wave.stage(slab, (job.session,), np.array([row]), after)
        wave.moved.append((job, self.sessions.view(job.session, slab, after)))

    def _admit_expire(self, job: Expire, wave: Wave) -> None:
        self._bury_expired(job.sessions, wave)
        wave.moved.append((job, None))

    def _bury_expired(self, sessions: Sequence[str], wave: Wave) -> None:
        for session in sessions:
            found = self.sessions.find(session)
            if found is not None and found[0].headers["deadline"][found[1]] < wave.now:
                self.sessions.bury(session, *found, "expired", wave)

    def _reply(self, wave: Wave) -> None:
        self._count(wave)
        use: Counts | None = None
        count = 0  # whose jobs these are, and how many in a row
        for job, outcome in wave.moved + wave.settled:
            if type(job) is Advance and job.use is not None:
                if job.use is not use:
                    if use is not None:
                        use.answered(count)
                    use, count = job.use, 0
                count += 1
            try:
                job.reply(outcome)
            except Exception:
                log.exception("a reply could not be given; the others go on")
        if use is not None:
            use.answered(count)

    def _count(self, wave: Wave) -> None:
        """What the wave did, before its answers leave: refusals are counted where they are told."""
        metrics = self.metrics
        chunks = observations = 0
        for job, outcome in wave.moved:
            if type(job) is Advance:
                chunks += 1
                observations += len(job.observations)
            elif type(outcome) is AdvancedMany:
                chunks += len(outcome.steps)
                observations += int(outcome.steps.sum())
        metrics.chunks += chunks
        metrics.observations += observations
        for forecaster, judged in wave.judged:
            metrics.judge(forecaster, judged)
        for _, outcome in wave.settled:
            if type(outcome) is Advanced:
                metrics.replays += outcome.replayed
                metrics.forecasts += not outcome.replayed

    def _fail(self, jobs: Sequence[Job], wave: Wave, error: Exception) -> None:
        """The tick failed as a whole: nothing moves, and every client may retry."""
        self.metrics.failed_ticks += 1
        log.error("tick failed: %s", error, exc_info=not isinstance(error, CarryoverError))
        if isinstance(error, StoreFailed):
            self._ailing = error.detail
        refusal = error if isinstance(error, CarryoverError) else StepFailed(f"the tick failed: {error}")
        wave.fail(refusal)
        answered = {id(job) for job, _ in wave.settled}
        wave.under_way.clear()
        wave.late = ()
        wave.settled += [(job, refusal) for job in wave.undivided(jobs) if id(job) not in answered]

    async def _sweep(self) -> None:
        """Bury what has idled too long, a slice at a time, for as long as the engine runs."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self.clock()
            late = await self._expired_at_rest(now)
            for fingerprint, slab in self.sessions.slabs.items():
                start = self._swept.get(fingerprint, 0)
                names, self._swept[fingerprint] = slab.expired(now, start, SWEEP_ROWS)
                late += names
            late = list(dict.fromkeys(late))  # a store that writes through tells of resident ones, too
            most = self.settings.wave_sessions
            for i in range(0, len(late), most):
                self._turns.add(Expire(late[i : i + most]))
            self._awake.set()

    async def _expired_at_rest(self, now: float) -> list[str]:
        try:
            late: list[str] = await self._call_store(self.sessions.store.expired, now, EXPIRED_AT_REST)
        except StoreFailed as error:
            self._ailing = error.detail
            return []
        return late

    async def _tend_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.sessions.store.tend_seconds)
            await self._tend()

    async def _tend(self) -> None:
        """Let the store do its upkeep, which tells whether it is well."""
        try:
            await self._call_store(self.sessions.store.tend)
        except StoreFailed as error:
            if not self._ailing:
                log.error("the store ails: %s", error)
            self._ailing = error.detail
        else:
            if self._ailing:
                log.warning("the store is well again")
            self._ailing = ""

    async def _call_store(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the store: at once, or from its thread when it may wait."""
        began = time.perf_counter()
        try:
            if self._thread is None:
                return function(*arguments)
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        finally:
            self.metrics.store_took(getattr(function, "__name__", "call"), time.perf_counter() - began)
