"""The engine: the one owner of all state, and its tick.

    collect -> admit -> step -> commit -> publish -> reply

It runs on the event loop. Only a store that waits for a disk or a network is called from a thread. There is
no batching window: whatever arrived while the last tick ran is the next batch. A session is in a batch
at most once, so its jobs run in the order of the queue. A chunk too long for one batch is carried
through several: meanwhile its session takes no other job, and its unfinished carry stays with the job. So a
resident session is always at the end of a whole chunk.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from app.config import Settings
from app.engine import listing
from app.engine.admission import Admission
from app.engine.batch import Batch
from app.engine.commit import Commit
from app.engine.fair_share import BULK_SESSIONS_PER_CHUNK, FairShare
from app.engine.idle_time import hold_idle_sessions
from app.engine.linger import Linger
from app.engine.model_slabs import ModelSlabs
from app.engine.queue import JobQueue
from app.engine.reply import reply
from app.engine.residents import NO_SESSIONS, Residents
from app.engine.slow_jobs import SlowJobs, cancelled_error
from app.engine.step import Stepper
from app.engine.store_calls import StoreCalls
from app.engine.upkeep import Upkeep
from app.engine.warm_start import warm_start_sessions
from app.engine.watchers import Watchers
from app.errors import CarryoverError, Overloaded, StepFailed, Stopping, StoreFailed
from app.jobs.jobs import Advance, AdvanceMany, Job, submit_and_wait
from app.jobs.split import split_job
from app.observability.metrics import Metrics
from app.observability.tracing import Tracing
from app.session.steady_clock import SteadyClock
from app.stores import Store
from models.forecaster import Forecaster

log = logging.getLogger("carryover.engine")


class Engine:
    """Owner of the slabs, the networks and the store.

    Parameters
    ----------
    forecasters : the models, one for each name; the first is the default unless the settings name another
    store : keeps the sessions that are not resident
    settings : the limits
    clock : seconds since 1970; by default one that ignores changes of the machine's clock
    older : networks for old sessions only; a new session never gets one
    """

    def __init__(
        self,
        forecasters: Sequence[Forecaster],
        store: Store,
        settings: Settings,
        clock: Callable[[], float] | None = None,
        older: Sequence[Forecaster] = (),
    ) -> None:
        self.metrics = Metrics()
        self.tracing: Tracing | None = None  # records each batch
        self.settings = settings
        # Copied, because they are read for every job or tick, and a pydantic attribute is 3 times slower.
        self._max_jobs, self._max_bytes = settings.queue_jobs, settings.queue_bytes
        self._max_sessions = settings.batch_sessions
        self.clock = clock or SteadyClock()
        self._call_store = StoreCalls(store, self.metrics)
        models = ModelSlabs(forecasters, settings, older)
        self.residents = Residents(models, store, settings, self._call_store, self.metrics)
        self.watchers = Watchers()
        self.stopping = False
        self._stop_at = math.inf  # monotonic time at which unfinished jobs are refused
        self.draining = False  # readiness fails, but requests are still served
        self.fair_share = FairShare(settings.tenant_share)
        self._queue = JobQueue()
        self._linger = Linger(self._queue)
        self._slow = SlowJobs(max(1, settings.batch_sessions // 4))
        self._awake = asyncio.Event()
        self._stepper = Stepper(settings.recent_bytes)
        self._admission = Admission(self.residents, self._stepper)
        self._commit = Commit(self.residents)
        self._upkeep = Upkeep(
            self._call_store, models.slabs, self.now, self._enqueue_upkeep, settings.batch_sessions
        )
        self.ticks = 0
        self._last_jobs = 0  # of the last batch
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tick on the running event loop."""
        self.residents.held_before = hold_idle_sessions(self.residents.store, self.settings, self.clock())
        self._task = asyncio.get_running_loop().create_task(self._run(), name="engine")
        self._upkeep.start()

    async def stop(self, seconds: float = math.inf) -> None:
        """Refuse new jobs, finish accepted ones, close the store.

        Parameters
        ----------
        seconds : time limit; jobs that are unfinished after it are refused, and no part of them is applied
        """
        self.stopping = True
        self.refuse_unfinished_after(seconds)
        self._upkeep.stop()
        self._awake.set()
        if self._task is not None:
            await self._task
        try:
            await self._call_store(self.residents.store.close)
        except StoreFailed as error:
            log.error("the store could not be closed, its last changes may be lost: %s", error)
        self._call_store.shutdown()

    def refuse_unfinished_after(self, seconds: float) -> None:
        """Refuse what is unfinished after this time: the server stops, and its clients wait for answers."""
        self._stop_at = min(self._stop_at, time.monotonic() + seconds)

    def submit(self, job: Job) -> None:
        """Queue a job; its `reply` is called exactly once.

        Raises
        ------
        Stopping, Overloaded : it was not queued, and `reply` is not called
        """
        if self.stopping:
            raise Stopping("the server is stopping")
        if len(self._queue) + len(self._slow) >= self._max_jobs:
            raise Overloaded(f"{self._max_jobs} jobs are waiting already")
        if self._queue.nbytes > self._max_bytes:
            raise Overloaded(f"{self._max_bytes} bytes of observations are waiting already")
        if type(job) is AdvanceMany:
            max_sessions = min(self._max_sessions, BULK_SESSIONS_PER_CHUNK * self.fair_share.limit)
            for part in split_job(job, max_sessions, self._stepper.max_observations):
                self._queue.add(part)
        else:
            self._queue.add(job)
        self._awake.set()

    def _enqueue_upkeep(self, job: Job) -> None:
        self._queue.add(job)
        self._awake.set()

    def now(self) -> float:
        """Seconds since 1970, by the engine's clock."""
        return self.clock()

    async def ask(self, job: Job) -> Any:
        """Queue a job and wait for its answer.

        Raises
        ------
        CarryoverError : the job was refused
        """
        return await submit_and_wait(self.submit, job)

    async def names(
        self, after: str, limit: int, model: str | None = None, prefix: str = ""
    ) -> list[tuple[str, str]]:
        """(name, model) of up to `limit` sessions, sorted: names > `after` that begin with `prefix`."""
        return await listing.names(self.residents, after, limit, model, prefix)

    def last_pass_seconds(self, model: str) -> float:
        """Seconds that the newest pass of this model took; 0 for a model that is not served."""
        slab = self.residents.models.current.get(model)
        return 0.0 if slab is None else self._stepper.last_pass_seconds(slab)

    @property
    def queue_length(self) -> int:
        """Chunks and commands that wait, slow jobs under way included."""
        return len(self._queue) + len(self._slow)

    @property
    def queue_bytes(self) -> int:
        """Bytes of observations that wait in the queue."""
        return self._queue.nbytes

    def readiness_problems(self) -> list[str]:
        """Why no requests should be sent to this process; empty when they may be."""
        problems = ["stopping"] * (self.stopping or self.draining)
        problems += [self._upkeep.failure] * bool(self._upkeep.failure)
        problems += ["no model is loaded"] * (not self.residents.models.current)
        return problems + self.liveness_problems()

    def liveness_problems(self) -> list[str]:
        """Why this process will never answer a chunk again; empty while it can."""
        stopped = self._task is not None and self._task.done() and not self.stopping
        return ["the engine has stopped"] * stopped

    async def _run(self) -> None:
        # No NumPy warnings: a client could fill the log with them. NaN and infinity are refused after step.
        with np.errstate(over="ignore", invalid="ignore"):
            while not (self.stopping and not self._queue and not self._slow):
                await self._awake.wait()
                self._awake.clear()
                while self._queue or self._slow:
                    await self._tick()
                    if time.monotonic() >= self._stop_at:
                        self._refuse_rest()
                    if self.residents.store.tend_due:
                        await self._upkeep.tend()
                    await asyncio.sleep(0)  # lets the event loop read new requests, the next batch
                    if not self._queue and not self._slow:
                        await self._linger.wait(self._last_jobs, self.ticks)

    async def _tick(self) -> None:
        stages = self.metrics.stages
        stages.begin()
        self.ticks += 1
        batch = self._collect()
        self._last_jobs = len(batch.jobs)
        self.metrics.batches.add(len(batch.touched))
        if self.tracing is not None:
            self.tracing.begin_batch(len(batch.touched))
        stages.end("collect")
        try:
            await self.residents.make_resident(batch)
            if len(self.residents.models.slabs) > len(self.residents.models.current):
                warm_start_sessions(self.residents, batch)
                batch.bulk_rows.clear()  # sessions moved to a newer network: their rows are others now
            self._admission.admit(batch)
            stages.end("admit")
            self._stepper.step(batch)
            stages.end("step")
            await self._commit.commit(batch)
            stages.end("commit")
            self._commit.publish(batch)
            if self.watchers:
                self.watchers.notify(batch.provisional_answers, batch.removed)
            stages.end("publish")
        except Exception as error:  # noqa: BLE001  (whatever it was, every client of the batch is answered)
            self._fail(batch, error)
        self._commit.abandon(batch)
        self._slow.put(batch.unfinished)
        self._release_sessions(batch)
        reply(batch, self.metrics)
        stages.end("reply")
        if self.tracing is not None:
            self.tracing.end_batch()

    def _collect(self) -> Batch:
        """The next batch: some of the slow jobs, and ready jobs up to the limits on sessions and bytes."""
        self.fair_share.update_limit()
        self._stepper.contended = self.fair_share.contended
        self._slow.put(self._queue.take_forecasts())
        pinned = self._slow.pinned if self._slow else NO_SESSIONS
        max_slow = min(self._stepper.max_slow_jobs, self._slow.max_begun)
        room = self._max_sessions - min(len(self._slow), max_slow) - len(pinned)
        taken = self._queue.take(room, self._stepper.max_nbytes, self.fair_share.limit) if room > 0 else []
        if len(taken) == 1 and not self._slow and type(taken[0]) is AdvanceMany:
            # Use the job's own set: copying a thousand names can take longer than the batch itself.
            return Batch(self.clock(), taken, taken[0].sessions.unique)
        jobs: list[Job] = []
        touched: set[str] = set()
        for job in taken:
            if type(job) is Advance:  # nearly every job
                jobs.append(job)
                touched.add(job.session)
            else:
                jobs.append(job)
                touched.update(job.sessions)
        if self._slow:
            self._drop_cancelled()
            slow = self._slow.take(max_slow)
            pinned = self._slow.pinned
            jobs += slow
            touched.update(session for job in slow for session in job.sessions)
        return Batch(self.clock(), jobs, touched, pinned, self._slow.may_begin)

    def _drop_cancelled(self) -> None:
        """Answer the slow jobs whose clients have left: nothing of them was applied."""
        dropped = self._slow.drop_cancelled()
        if dropped:
            self._refuse(dropped, cancelled_error())

    def _refuse_rest(self) -> None:
        """Refuse every job that is not finished: the time to stop has come."""
        jobs = [*self._slow.drain(), *self._queue.drain()]
        if jobs:
            log.warning("%d requests were refused: the server had to stop", len(jobs))
            self._refuse(jobs, Stopping("the server is stopping; nothing of this request was applied"))

    def _refuse(self, jobs: Sequence[Job], error: CarryoverError) -> None:
        """Answer jobs that are in no batch."""
        reply(Batch(self.clock(), jobs, final_answers=[(job, error) for job in jobs]), self.metrics)
        self._queue.finish({session for job in jobs for session in job.sessions})

    def _release_sessions(self, batch: Batch) -> None:
        """Make the next job of each session ready, unless its own is unfinished or will be retried."""
        kept = {session for job in (*batch.unfinished, *batch.retries) for session in job.sessions}
        self._queue.finish(batch.touched - kept if kept else batch.touched)
        for job in batch.retries:
            self._queue.requeue(job)

    def _fail(self, batch: Batch, error: Exception) -> None:
        """The tick failed as a whole: nothing moves, and every client may retry."""
        self.metrics.failed_ticks += 1
        if isinstance(error, CarryoverError):
            log.error("tick failed: %s", error)
        else:  # no message: it may contain a session's name; the log's formatter omits messages of `exc_info`
            log.error("tick failed", exc_info=error)
        if isinstance(error, StoreFailed):
            self._upkeep.failure = error.detail
        refusal = (
            error
            if isinstance(error, CarryoverError)
            else StepFailed("the tick failed; see the server's log")
        )
        batch.fail(refusal)
        answered = {id(job) for job, _ in batch.final_answers}
        batch.unfinished.clear()
        batch.retries = ()
        batch.final_answers += [(job, refusal) for job in batch.expand(batch.jobs) if id(job) not in answered]
