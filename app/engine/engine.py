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
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from app.config import Settings
from app.engine.admission import Admission
from app.engine.batch import Batch
from app.engine.commit import Commit
from app.engine.fair_share import BULK_SESSIONS_PER_CHUNK, FairShare
from app.engine.model_slabs import ModelSlabs
from app.engine.queue import JobQueue
from app.engine.reply import reply
from app.engine.residents import Residents
from app.engine.step import Stepper
from app.engine.store_calls import StoreCalls
from app.engine.upkeep import Upkeep
from app.engine.warm_start import warm_start_sessions
from app.engine.watchers import Watchers
from app.errors import CarryoverError, Overloaded, StepFailed, Stopping, StoreFailed
from app.jobs.jobs import Advance, AdvanceMany, Job, submit_and_wait
from app.jobs.session_list import SessionNames
from app.jobs.split import split_job
from app.observability.metrics import Metrics
from app.observability.tracing import Tracing
from app.stores import Store
from models.forecaster import Forecaster

log = logging.getLogger("carryover.engine")

LINGER_SECONDS = 100e-6  # a client that waits for each answer sends its next chunk within this
IN_VAIN, SELDOM = 3, 64  # after so many times in a row that nothing came it is tried in one tick of so many


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
        self.settings = settings
        self.clock = clock
        self._call_store = StoreCalls(store, self.metrics)
        models = ModelSlabs(forecasters, settings, older)
        self.residents = Residents(models, store, settings, self._call_store, self.metrics)
        self.watchers = Watchers()
        self.stopping = False
        self.draining = False  # asked to be sent no more, and serves what comes all the same
        self.fair_share = FairShare(settings.tenant_share)
        self._queue = JobQueue()
        self._queue_bytes = 0
        self._unfinished: list[Job] = []  # with progress; their sessions are set aside
        self._awake = asyncio.Event()
        self._stepper = Stepper(settings.recent_bytes)
        self._admission = Admission(self.residents, self._stepper)
        self._commit = Commit(self.residents)
        self._upkeep = Upkeep(
            self._call_store, models.slabs, self.now, self._enqueue_upkeep, settings.batch_sessions
        )
        self.ticks = 0
        self._jobs = 0  # of the last wave
        self._in_vain = 0  # times in a row that it lingered and nothing came
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tick on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="engine")
        self._upkeep.start()

    async def stop(self) -> None:
        """Finish what was accepted, refuse what comes, close the store."""
        self.stopping = True
        self._upkeep.stop()
        self._awake.set()
        if self._task is not None:
            await self._task
        try:
            await self._call_store(self.residents.store.close)
        except StoreFailed as error:
            log.error("what was answered last is not kept: %s", error)
        self._call_store.shutdown()

    def submit(self, job: Job) -> None:
        """Queue a job; its `reply` is called exactly once.

        Raises
        ------
        Stopping, Overloaded : it was not queued, and `reply` is not called
        """
        if self.stopping:
            raise Stopping("the server is stopping")
        if len(self._queue) >= self.settings.queue_jobs:
            raise Overloaded(f"{self.settings.queue_jobs} jobs are waiting already")
        if self._queue_bytes > self.settings.queue_bytes:
            raise Overloaded(f"{self.settings.queue_bytes} bytes of observations are waiting already")
        if type(job) is AdvanceMany:
            most = min(self.settings.batch_sessions, BULK_SESSIONS_PER_CHUNK * self.fair_share.limit)
            for part in split_job(job, most, self._stepper.observations):
                self._put(part)
        else:
            self._put(job)
        self._awake.set()

    def _enqueue_upkeep(self, job: Job) -> None:
        self._queue.add(job)
        self._awake.set()

    def now(self) -> float:
        """Seconds since 1970, by the engine's clock."""
        return self.clock()

    def _put(self, job: Job) -> None:
        self._queue.add(job)
        self._queue_bytes += job.nbytes

    async def ask(self, job: Job) -> Any:
        """Queue a job and wait for its answer.

        Raises
        ------
        CarryoverError : what the job was refused with
        """
        return await submit_and_wait(self.submit, job)

    async def names(
        self, after: str, limit: int, model: str | None = None, prefix: str = ""
    ) -> list[tuple[str, str]]:
        """(name, model) of up to `limit` sessions behind `after` that begin with `prefix`, in order."""
        return await self.residents.names(after, limit, model, prefix)

    def last_pass_seconds(self, model: str) -> float:
        """Seconds that the newest pass of this model took; 0 for one that is not served."""
        slab = self.residents.models.current.get(model)
        return 0.0 if slab is None else self._stepper.last_pass_seconds(slab)

    @property
    def queue_length(self) -> int:
        """Sessions' turns that wait in the queue."""
        return len(self._queue)

    @property
    def queue_bytes(self) -> int:
        """Bytes of observations that wait in the queue."""
        return self._queue_bytes

    def readiness_problems(self) -> list[str]:
        """Why no requests should be sent here; empty when they may."""
        leaving = self.stopping or self.draining
        told = ["stopping"] * leaving + [self._upkeep.failure] * bool(self._upkeep.failure)
        return told + ["no model is loaded"] * (not self.residents.models.current) + self.liveness_problems()

    def liveness_problems(self) -> list[str]:
        """Why this process will never answer a chunk again; empty while it lives."""
        stopped = self._task is not None and self._task.done() and not self.stopping
        return ["the engine has stopped"] * stopped

    async def _run(self) -> None:
        # What leaves the finite numbers is looked for and refused: no client may fill the log with warnings.
        with np.errstate(over="ignore", invalid="ignore"):
            while not (self.stopping and not self._queue and not self._unfinished):
                await self._awake.wait()
                self._awake.clear()
                while self._queue or self._unfinished:
                    await self._tick()
                    if self.residents.store.tend_due:
                        await self._upkeep.tend()
                    await asyncio.sleep(0)  # what arrived meanwhile is read now: it is the next wave
                    if not self._queue and not self._unfinished:
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
            if self._queue:
                self._in_vain = 0
                return
            await asyncio.sleep(0)
        self._in_vain += 1

    async def _tick(self) -> None:
        stages = self.metrics.stages
        stages.begin()
        self.ticks += 1
        batch = Batch(self.clock())
        jobs, touched = self._collect()
        self._jobs = len(jobs)
        self.metrics.batches.add(len(touched))
        if self.tracing is not None:
            self.tracing.begin_batch(len(touched))
        stages.end("collect")
        try:
            await self.residents.make_resident(jobs, touched, batch)
            if len(self.residents.models.slabs) > len(self.residents.models.current):
                warm_start_sessions(self.residents, touched)
                batch.bulk_rows.clear()  # who starts warm has moved
            self._admission.admit(jobs, touched, batch)
            stages.end("admit")
            self._stepper.step(batch)
            stages.end("step")
            await self._commit.commit(batch, touched)
            stages.end("commit")
            self._commit.publish(batch)
            if self.watchers:
                self.watchers.notify(batch.provisional_answers, batch.removed)
            stages.end("publish")
        except Exception as error:  # noqa: BLE001  (whatever it was, every client of the wave is answered)
            self._fail(jobs, batch, error)
        self._commit.abandon(batch)
        self._unfinished = batch.unfinished
        self._move_up(touched, batch)
        reply(batch, self.metrics)
        stages.end("reply")
        if self.tracing is not None:
            self.tracing.end_batch()

    def _move_up(self, touched: SessionNames, batch: Batch) -> None:
        """Let those behind the wave's jobs lead; what was buried under a job is asked again without it."""
        kept = {session for job in (*batch.unfinished, *batch.retries) for session in job.sessions}
        self._queue.finish(touched - kept if kept else touched)
        for job in batch.retries:
            self._queue.requeue(job)
            self._queue_bytes += job.nbytes

    def _collect(self) -> tuple[list[Job], SessionNames]:
        """The next wave: what goes on from the last one, and whatever is ready, up to the bounds."""
        jobs = self._unfinished
        touched = {session for job in jobs for session in job.sessions}
        room = self.settings.batch_sessions - len(touched)
        self.fair_share.update_limit()
        self._stepper.contended = self.fair_share.contended
        taken = self._queue.take(room, self._stepper.nbytes, self.fair_share.limit) if room > 0 else []
        if len(taken) == 1 and not jobs and type(taken[0]) is AdvanceMany:
            self._queue_bytes -= taken[0].nbytes
            # As it is: a copy of a thousand takes longer than many a wave.
            return taken, taken[0].sessions.unique
        for job in taken:
            jobs.append(job)
            self._queue_bytes -= job.nbytes
            if type(job) is Advance:  # nearly every job
                touched.add(job.session)
            else:
                touched.update(job.sessions)
        return jobs, touched

    def _fail(self, jobs: Sequence[Job], batch: Batch, error: Exception) -> None:
        """The tick failed as a whole: nothing moves, and every client may retry."""
        self.metrics.failed_ticks += 1
        log.error("tick failed: %s", error, exc_info=not isinstance(error, CarryoverError))
        if isinstance(error, StoreFailed):
            self._upkeep.failure = error.detail
        refusal = error if isinstance(error, CarryoverError) else StepFailed(f"the tick failed: {error}")
        batch.fail(refusal)
        answered = {id(job) for job, _ in batch.final_answers}
        batch.unfinished.clear()
        batch.retries = ()
        batch.final_answers += [(job, refusal) for job in batch.expand(jobs) if id(job) not in answered]
