"""The engine: the one owner of all state, and its tick.

    collect -> admit -> step -> commit -> publish -> reply

It runs on the event loop. Only a store that waits for a disk or a network is called from a thread. There is
no batching window: whatever arrived while the last tick ran is the next batch. A session is in a batch
at most once, so its jobs run in the order of the queue. A chunk that is too long for one batch is split over
several. Until it is complete, no other job of its session runs, and the intermediate carry is kept in the
job. So a slab row never holds the state of a half-processed chunk.

Simple bulk jobs of resident sessions take a shorter way (`app.engine.direct`): in a batch of one such job it
takes the place of `admit` and `step`. If the store does not write through and nothing else is waiting, such a
job is applied as it is submitted, without the queue. Upkeep jobs are queued even if the queue is full.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from app.config import Settings
from app.engine.admission import Admission
from app.engine.alerting import check_alert
from app.engine.arrivals import Arrivals
from app.engine.backlog import Backlog
from app.engine.batch import AlertEvent, Batch
from app.engine.commit import Commit
from app.engine.direct import DirectChunks
from app.engine.fair_share import FairShare
from app.engine.idle_time import suspend_expiry_after_clock_jump
from app.engine.linger import Linger
from app.engine.listing import Listing
from app.engine.model_slabs import ModelSlabs
from app.engine.peers import Peers
from app.engine.reply import fail_batch, reply
from app.engine.residents import Residents
from app.engine.slow_jobs import cancelled_error
from app.engine.step import Stepper
from app.engine.store_calls import StoreCalls
from app.engine.upkeep import Upkeep
from app.engine.warm_start import warm_start_sessions
from app.engine.watchers import Watchers
from app.errors import CarryoverError, Stopping, StoreFailed, Unprocessable
from app.jobs.jobs import AdvanceMany, Job, Watch, Watcher, submit_and_wait
from app.jobs.session_query import Cursor, Rank, RankedSession, SessionPage, SessionQuery
from app.observability.metrics import Metrics
from app.observability.tracing import Tracing
from app.session.notes import Alert
from app.session.steady_clock import SteadyClock
from app.stores import NamePage, Store
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
        self.peers: Peers | None = None  # the other workers, which own a part of the sessions
        self.clock = clock or SteadyClock()
        self._call_store = StoreCalls(store, self.metrics)
        models = ModelSlabs(forecasters, settings, older)
        self.residents = Residents(models, store, settings, self._call_store, self.metrics)
        self._listing = Listing(self.residents)
        self.watchers = Watchers()
        self.publish_alerts: Callable[[Sequence[AlertEvent]], None] = lambda _: None  # must be quick
        self.stopping = False
        self._stop_at = math.inf  # monotonic time at which unfinished jobs are refused
        self.draining = False  # readiness fails, but requests are still served
        self.fair_share = FairShare(settings.tenant_share)
        self._stepper = Stepper(settings.recent_bytes, models)
        self._backlog = Backlog(settings, self.fair_share, self._stepper)
        self.arrivals = Arrivals()
        self._linger = Linger(self._has_work)
        self._awake = asyncio.Event()
        self._admission = Admission(self.residents, self._stepper)
        self._commit = Commit(self.residents)
        self._direct = DirectChunks(self.residents, self._stepper, self.metrics)
        self._may_apply_at_once = not store.writes_through
        self._upkeep = Upkeep(
            self._call_store, models.slabs, self.now, self._enqueue_upkeep, settings.batch_sessions
        )
        self.ticks = 0
        self._last_batch_request_count = 0
        self._task: asyncio.Task[None] | None = None

    def set_alerts(self, alerts: Mapping[str, Alert]) -> None:
        """Set the alerts, by model, of sessions that have none of their own.

        Raises
        ------
        Unprocessable : sessions of a model keep no surprise, or not that interval
        """
        for model, alert in alerts.items():
            forecaster = self.residents.models.slab_for_model(model).forecaster
            if not forecaster.learning.tracks_errors:
                raise Unprocessable(
                    f"the sessions of {model!r} keep no surprise: train it with --levels, or set the alert "
                    "for a session that learns"
                )
            check_alert(alert, forecaster)
        self._stepper.alerts = alerts

    def start(self) -> None:
        """Begin to tick on the running event loop."""
        self.residents.no_expiry_before = suspend_expiry_after_clock_jump(
            self.residents.store, self.settings, self.clock()
        )
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
        """Set a time limit: jobs unfinished then are refused, so that a stopping server answers its clients.

        Parameters
        ----------
        seconds : from now; an earlier limit that was set before stays
        """
        self._stop_at = min(self._stop_at, time.monotonic() + seconds)

    def submit(self, job: Job) -> None:
        """Queue a job here or at the worker that owns its sessions; its `reply` is called exactly once.

        Raises
        ------
        Stopping, Overloaded : it was not queued, and `reply` is not called
        """
        if self.peers is None:
            self.submit_here(job)
        else:
            self.peers.submit(job)

    def submit_here(self, job: Job) -> None:
        """Queue a job whose sessions this engine owns, or apply it at once.

        Raises
        ------
        Stopping, Overloaded : it was not queued, and `reply` is not called
        """
        if self.stopping:
            raise Stopping("the server is stopping")
        if type(job) is Watch:
            self.watchers.add_when_answered(job)
        if not self._backlog and self._advance_at_once(job):
            return
        self._backlog.add(self._backlog.split(job))
        self.wake()

    def _advance_at_once(self, job: Job) -> bool:
        """Apply and answer a job at once if it is simple. Returns whether it was applied."""
        if not self._may_apply_at_once or self.watchers or self.tracing is not None:
            return False
        if type(job) is not AdvanceMany or not self._backlog.fits(job):
            return False
        if not self._direct.apply(job, self.clock()):
            return False
        self.ticks += 1
        self._last_batch_request_count = job.requests
        return True

    def wake(self) -> None:
        """Start a tick, because a job or a chunk is waiting."""
        self._awake.set()

    def _enqueue_upkeep(self, job: Job) -> None:
        # Not subject to the queue limit: no client would retry a refused upkeep job.
        self._backlog.add((job,))
        self.wake()

    def _has_work(self) -> bool:
        return bool(self._backlog or self.arrivals)

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

    def unwatch(self, session: str, watcher: Watcher) -> None:
        """Stop notifying this watcher; nothing happens if it does not watch the session."""
        self.watchers.remove(session, watcher)
        if self.peers is not None:
            self.peers.unwatch(session, watcher)

    async def list_sessions(self, query: SessionQuery, after: Cursor | None, limit: int) -> SessionPage:
        """A page of up to `limit` sessions.

        Parameters
        ----------
        after : `next` of the page before; None for the first

        Raises
        ------
        WorkerUnavailable : a worker that owns a part of them does not answer
        """
        found: list[tuple[str, str]] = []
        if query.order is not None and not isinstance(after, str):
            ranked = await self._ranked(query, after, limit)
            found += [(session.name, session.model) for session in ranked]
            if len(found) == limit:
                return SessionPage(found, Rank(ranked[-1].value, ranked[-1].epoch))
        name = after if isinstance(after, str) else ""
        page = await self._by_name(query, name, limit - len(found))
        return SessionPage([*found, *page.found], page.end)

    async def _ranked(self, query: SessionQuery, after: Rank | None, limit: int) -> list[RankedSession]:
        pages = [await self.ranked_here(query, after, limit)]
        if self.peers is not None:
            pages += await self.peers.ranked(query, after, limit)
        return list(islice(heapq.merge(*pages, reverse=query.descending), limit))

    async def _by_name(self, query: SessionQuery, after: str, limit: int) -> NamePage:
        page = await self.by_name_here(query, after, limit)
        if self.peers is None:
            return page
        pages = [page, *await self.peers.by_name(query, after, limit)]
        return NamePage.merge(pages, limit, descending=query.names_descend)

    async def ranked_here(self, query: SessionQuery, after: Rank | None, limit: int) -> list[RankedSession]:
        """See `Listing.ranked`: of the sessions that this engine owns."""
        return await self._listing.ranked(query, after, limit)

    async def by_name_here(self, query: SessionQuery, after: str, limit: int) -> NamePage:
        """See `Listing.by_name`: of the sessions that this engine owns."""
        return await self._listing.by_name(query, after, limit)

    async def count_sessions(self, tenant: str | None = None) -> int:
        """Number of sessions of a tenant, or of all tenants.

        Raises
        ------
        WorkerUnavailable : a worker that owns a part of them does not answer
        """
        here = self.count_sessions_here(tenant)
        return here if self.peers is None else here + await self.peers.count_sessions(tenant)

    def count_sessions_here(self, tenant: str | None = None) -> int:
        """As `count_sessions`, of the sessions that this engine owns."""
        return len(self.residents) if tenant is None else self.residents.counts.per_tenant[tenant]

    async def session_counts_by_model(self) -> dict[str, tuple[int, int]]:
        """By model, its resident sessions, and those resident on networks that had its name before."""
        counts = self.session_counts_by_model_here()
        for other in [] if self.peers is None else await self.peers.ask_reachable("models"):
            for model, (current, older) in other.items():
                own_current, own_older = counts.get(model, (0, 0))
                counts[model] = own_current + current, own_older + older
        return counts

    def session_counts_by_model_here(self) -> dict[str, tuple[int, int]]:
        """As `session_counts_by_model`, of the sessions that this engine owns."""
        models = self.residents.models
        return {
            name: (
                sum(map(len, models.sibling_slabs(slab))),
                sum(map(len, models.older_slabs(name))),
            )
            for name, slab in models.current.items()
        }

    def last_pass_seconds(self, model: str) -> float:
        """Seconds that the newest pass of this model took; 0 for a model that is not served."""
        slab = self.residents.models.current.get(model)
        return 0.0 if slab is None else self._stepper.last_pass_seconds(slab)

    @property
    def queue_length(self) -> int:
        """Number of waiting chunks and commands, including unfinished slow jobs."""
        return len(self._backlog)

    @property
    def queue_bytes(self) -> int:
        """Bytes of observations that wait in the queue."""
        return self._backlog.queue.nbytes

    def readiness_problems(self) -> list[str]:
        """Why no requests should be sent to this server; empty if it is ready for requests."""
        elsewhere = [] if self.peers is None else self.peers.problems()
        return self.own_readiness_problems() + elsewhere

    def own_readiness_problems(self) -> list[str]:
        """Why this engine is not ready for requests."""
        problems = ["stopping"] * (self.stopping or self.draining)
        problems += [self._upkeep.failure] * bool(self._upkeep.failure)
        problems += ["no model is loaded"] * (not self.residents.models.current)
        return problems + self.liveness_problems()

    def liveness_problems(self) -> list[str]:
        """Why this process will never answer another chunk; empty while it can."""
        stopped = self._task is not None and self._task.done() and not self.stopping
        return ["the engine has stopped"] * stopped

    async def _run(self) -> None:
        # No NumPy warnings: a client could fill the log with them. NaN and infinity are refused after step.
        with np.errstate(over="ignore", invalid="ignore"):
            while not self.stopping or self._has_work():
                await self._awake.wait()
                self._awake.clear()
                while self._has_work():
                    self.fair_share.update_limit()  # no batch does so for what is applied at once
                    self.arrivals.submit()
                    if self._backlog:
                        await self._tick()
                    if time.monotonic() >= self._stop_at:
                        self._refuse_rest()
                    if self.residents.store.upkeep_due:
                        await self._upkeep.maintain_store()
                    await asyncio.sleep(0)  # lets the event loop read new requests, the next batch
                    if self._last_batch_request_count > 1:
                        # Of 64 clients that were answered, 44 have sent again by now, and 50 after this.
                        await asyncio.sleep(0)
                    if not self._has_work():
                        await self._linger.wait(self._last_batch_request_count, self.ticks)

    async def _tick(self) -> None:
        stages = self.metrics.stages
        stages.begin()
        batch = self._collect()
        stages.end("collect")
        if len(batch.jobs) == 1 and self._advance_at_once(batch.jobs[0]):
            self._backlog.finish(batch)
            return
        self.ticks += 1
        self._last_batch_request_count = sum(
            job.requests if type(job) is AdvanceMany else 1 for job in batch.jobs
        )
        self.metrics.batches.add(len(batch.sessions))
        if self.tracing is not None:
            self.tracing.begin_batch(len(batch.sessions))
        try:
            if not self._direct.stage(batch):
                await self._admit(batch)
                stages.end("admit")
                self._stepper.step(batch)
            stages.end("step")
            await self._commit.commit(batch)
            stages.end("commit")
            self._commit.publish(batch)
            self._notify(batch)
            stages.end("publish")
        except Exception as error:  # noqa: BLE001  (after any error, every client gets an answer)
            self._fail(batch, error)
        self._commit.release_unused_rows(batch)
        self._backlog.finish(batch)
        reply(batch, self.metrics)
        stages.end("reply")
        if self.tracing is not None:
            self.tracing.end_batch()

    def _notify(self, batch: Batch) -> None:
        """Notify watchers and readers of alerts. If this fails, the committed batch is still answered."""
        try:
            if self.watchers:
                self.watchers.notify(batch.answers_if_committed, batch.removed)
            if batch.alerts:
                self.watchers.notify_alerts(batch.alerts)
                self.publish_alerts(batch.alerts)
        except Exception:
            log.exception("a batch is committed, but watchers or readers of alerts could not be notified")

    async def _admit(self, batch: Batch) -> None:
        await self.residents.make_resident(batch)
        if len(self.residents.models.slabs) > len(self.residents.models.current):
            warm_start_sessions(self.residents, batch)
            batch.bulk_rows.clear()  # these rows are invalid if their sessions moved to another slab
        self._admission.admit(batch)

    def _collect(self) -> Batch:
        self.fair_share.update_limit()
        self._stepper.contended = self.fair_share.contended
        if cancelled := self._backlog.drop_cancelled():
            self._refuse(cancelled, cancelled_error())
        return self._backlog.take(self.clock())

    def _refuse_rest(self) -> None:
        """Refuse every unfinished job, because the time limit for stopping has passed."""
        jobs = self._backlog.drain()
        if jobs:
            log.warning("%d requests were refused: the server had to stop", len(jobs))
            self._refuse(jobs, Stopping("the server is stopping; nothing of this request was applied"))

    def _refuse(self, jobs: Sequence[Job], error: CarryoverError) -> None:
        """Refuse jobs that are not part of a batch."""
        sessions = {session for job in jobs for session in job.sessions}
        batch = Batch(self.clock(), jobs, sessions, final_answers=[(job, error) for job in jobs])
        reply(batch, self.metrics)
        self._backlog.finish(batch)

    def _fail(self, batch: Batch, error: Exception) -> None:
        self.metrics.failed_ticks += 1
        if isinstance(error, StoreFailed):
            self._upkeep.failure = error.detail
        fail_batch(batch, error)
