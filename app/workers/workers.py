"""The other workers of this server: their jobs, their answers, and what they report.

    connection -> Caller.submit -> Engine.submit -> Workers.submit -> Engine.submit_here   of this worker
                                                                   -> Peer.submit          of another one

Jobs are divided here, because every protocol makes jobs: HTTP, sockets, bulk requests and gRPC need to know
nothing of workers. A job of many sessions becomes one job for each of their owners.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

import msgspec

from app.access.callers import Authenticator
from app.access.shared_usage import SharedUsage, UsageReport
from app.engine.batch import AlertEvent
from app.engine.engine import Engine
from app.engine.reply import call_reply
from app.errors import BadModel, CarryoverError, WorkerUnavailable
from app.jobs.jobs import (
    Adopt,
    AdvanceMany,
    Export,
    Fork,
    Import,
    Job,
    Retire,
    Watcher,
    submit_and_wait,
)
from app.jobs.session_query import Rank, RankedSession, SessionQuery
from app.jobs.split import JobParts
from app.model_library import ModelLibrary
from app.session.names import id_of
from app.stores import NamePage
from app.workers.handed_over import HandedOverChunks
from app.workers.peer import ANSWER_SECONDS, CONNECT_SECONDS, Peer
from app.workers.place import Place, owner_of
from app.workers.serving import Answer, ServedPeer

log = logging.getLogger("carryover.workers")

REPORT_SECONDS = 0.1
LOAD_SECONDS = 120.0  # for another worker to load a model
SILENT_SECONDS = 5.0  # without a report, after which a worker counts as not ready
START_SECONDS = 60.0  # how long a start waits for the other workers


class Workers:
    """All workers of this server, seen from one of them.

    Parameters
    ----------
    place : of this worker
    engine : of this worker
    library : loads models
    """

    def __init__(
        self, place: Place, engine: Engine, authenticator: Authenticator, library: ModelLibrary
    ) -> None:
        self.place = place
        self._engine = engine
        self._authenticator = authenticator
        self._library = library
        settings = engine.settings
        self._peers = {
            index: Peer(index, place.socket(index), settings.queue_jobs, settings.queue_bytes)
            for index in place.others
        }
        self._chunks = HandedOverChunks(engine)
        self._usage = SharedUsage(authenticator)
        self._reports: dict[int, _Report] = {}
        self.answers: dict[str, Answer] = {
            "adopt": self._adopt_here,
            "by_name": self._by_name_here,
            "count": self._count_here,
            "current": self._current_here,
            "models": self._models_here,
            "ranked": self._ranked_here,
            "retire": self._retire_here,
        }
        self.receive_alerts: Callable[[Sequence[AlertEvent]], None] = lambda _: None
        self._started = monotonic()  # the same clock in all workers
        self.is_stopping = False  # set by a signal handler: then the start waits for nobody
        self._served: set[ServedPeer] = set()
        self._listening: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # Starting and stopping.

    async def start(self) -> None:
        """Take jobs from the other workers, and wait until they take jobs."""
        path = self.place.socket(self.place.index)
        with suppress(FileNotFoundError):
            path.unlink()
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_unix_server(self._serve, str(path))
        for peer in self._peers.values():
            self._run(peer.stay_connected())
        deadline = monotonic() + START_SECONDS
        # A signal handler sets no event.
        while not (self.is_stopping or self._are_all_connected()) and monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(CONNECT_SECONDS)
        if not self.is_stopping:
            await self._catch_up()
        self._run(self._report())

    def _are_all_connected(self) -> bool:
        """Whether this worker reaches every other, and every other reaches this one."""
        served = [served for served in self._served if not served.is_lost]
        return len(served) >= len(self._peers) and all(peer.is_connected for peer in self._peers.values())

    async def finish(self, seconds: float) -> None:
        """Wait until no worker sends jobs any more: an engine that has stopped would refuse them.

        Parameters
        ----------
        seconds : time limit
        """
        deadline = monotonic() + seconds
        await _wait_for_all([peer.idle for peer in self._peers.values()], seconds)
        for peer in self._peers.values():
            peer.finish()
        await _wait_for_all([served.finished for served in self._served], deadline - monotonic())

    def stop(self) -> None:
        """Close the connections to the other workers."""
        for task in self._tasks:
            task.cancel()
        if self._listening is not None:
            self._listening.close()
        for served in self._served:
            served.close()

    def _serve(self) -> ServedPeer:
        self._served = {served for served in self._served if not served.is_lost}
        served = ServedPeer(
            self._engine,
            self._chunks,
            self._authenticator,
            self.answers,
            self._take_report,
            self._take_alerts,
        )  # fmt: skip
        self._served.add(served)
        return served

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Jobs.

    def owner(self, session: str) -> int:
        """The worker that owns a session."""
        return owner_of(session, self.place.count)

    def submit(self, job: Job) -> None:
        """Give a job, or its parts, to the engines that own its sessions.

        Raises
        ------
        Stopping, Overloaded : nothing was queued, and `reply` is not called
        """
        match job:
            case AdvanceMany():
                self._submit_chunks(job)
            case Fork() if self.owner(job.session) != self.owner(job.target):
                self._fork(job)
            case Adopt():
                artifact = job.forecaster.artifact
                self._submit_everywhere(job, "adopt", artifact.name, artifact.fingerprint)
            case Retire():
                self._submit_everywhere(job, "retire", job.model)
            case _:
                self._submit_to(self.owner(job.sessions[0]), job)

    def _submit_to(self, owner: int, job: Job) -> None:
        if owner == self.place.index:
            self._engine.submit_here(job)
        else:
            self._engine.metrics.handed_over += len(job.sessions)
            self._peers[owner].submit(job)

    def _submit_chunks(self, job: AdvanceMany) -> None:
        divided = job.sessions.divide(self.owner)
        if len(divided) == 1:
            self._submit_to(divided[0].owner, job)
            return
        parts = JobParts(job)
        # The part for this worker goes first: it may be refused, and then nothing has happened.
        for own in sorted(divided, key=lambda part: part.owner != self.place.index):
            self._submit_to(own.owner, parts.subset(own.indexes, own.sessions))

    def _fork(self, job: Fork) -> None:
        """Copy a session to another worker."""

        def plant(outcome: Any) -> None:
            if isinstance(outcome, CarryoverError):
                job.reply(outcome)
                return
            now = self._engine.now()
            state = replace(outcome, session=id_of(job.target), created=now, updated=now, answers=())
            try:
                self._submit_to(
                    self.owner(job.target), Import(job.target, state, only_new=True, reply=job.reply)
                )
            except CarryoverError as error:
                job.reply(error)

        self._submit_to(self.owner(job.session), Export(job.session, job.at, job.epoch, plant))

    def unwatch(self, session: str, watcher: Watcher) -> None:
        """Stop notifying a watcher of a session that another worker owns."""
        peer = self._peers.get(self.owner(session))
        if peer is not None:
            peer.unwatch(session, watcher)

    # Questions to all workers.

    async def ask(self, question: str, *arguments: Any) -> list[Any]:
        """Ask every other worker.

        Raises
        ------
        WorkerUnavailable : a worker cannot be reached
        CarryoverError : a worker refuses
        """
        return list(await asyncio.gather(*(peer.ask(question, *arguments) for peer in self._peers.values())))

    async def ask_reachable(
        self, question: str, *arguments: Any, seconds: float = ANSWER_SECONDS
    ) -> list[Any]:
        """Ask every other worker that can be reached. One that is starting or does not answer is left out."""

        async def ask(peer: Peer) -> list[Any]:
            with suppress(WorkerUnavailable):
                return [await peer.ask(question, *arguments, seconds=seconds)]
            return []

        answers = await asyncio.gather(*map(ask, self._peers.values()))
        return [answer for found in answers for answer in found]

    async def ranked(
        self, query: SessionQuery, after: Rank | None, limit: int
    ) -> Sequence[list[RankedSession]]:
        """`Engine.ranked_here` of each other worker."""
        pages = await self.ask("ranked", query, after, limit)
        return [[RankedSession(*session) for session in page] for page in pages]

    async def by_name(self, query: SessionQuery, after: str, limit: int) -> Sequence[NamePage]:
        """`Engine.by_name_here` of each other worker."""
        pages = await self.ask("by_name", query, after, limit)
        return [NamePage([(name, model) for name, model in found], end) for found, end in pages]

    async def _ranked_here(self, query: Any, after: Any, limit: int) -> list[RankedSession]:
        rank = None if after is None else Rank(*after)
        return await self._engine.ranked_here(_query(query), rank, limit)

    async def _by_name_here(
        self, query: Any, after: str, limit: int
    ) -> tuple[Sequence[tuple[str, str]], str | None]:
        page = await self._engine.by_name_here(_query(query), after, limit)
        return page.found, page.end

    async def count_sessions(self, tenant: str | None) -> int:
        """Number of sessions that other workers own."""
        return sum(await self.ask("count", tenant))

    async def _models_here(self) -> Mapping[str, tuple[int, int]]:
        return self._engine.session_counts_by_model_here()

    async def _count_here(self, tenant: str | None) -> int:
        return self._engine.count_sessions_here(tenant)

    # Alerts: every worker has readers of all.

    def send_alerts(self, alerts: Sequence[AlertEvent]) -> None:
        """Send alerts of sessions of this worker to the others."""
        plain = [[alert.session, alert.event] for alert in alerts]
        for peer in self._peers.values():
            peer.send_alerts(plain)

    def _take_alerts(self, content: Sequence[Any]) -> None:
        self.receive_alerts([AlertEvent(session, None, event) for session, event in content])

    # Models: every worker loads them from disk.

    def _submit_everywhere(self, job: Adopt | Retire, question: str, *arguments: Any) -> None:
        reply = job.reply

        async def apply() -> None:
            try:
                outcome = await submit_and_wait(self._engine.submit_here, job)
                # A worker that is starting catches up afterwards.
                others = await self.ask_reachable(question, *arguments, seconds=LOAD_SECONDS)
            except CarryoverError as error:
                outcome, others = error, []
            call_reply(replace(job, reply=reply), outcome or any(others) if type(job) is Adopt else outcome)

        self._run(apply())

    async def _catch_up(self) -> None:
        """Serve what the worker serves that has run longest: it may have changed while this one started."""
        answers = [await self._current_here(), *await self.ask_reachable("current")]
        own, theirs = answers[0][1], min(answers, key=lambda answer: answer[0])[1]
        for model in [model for model in own | theirs if own.get(model) != theirs.get(model)]:
            try:
                if model in theirs:
                    await self._adopt_here(model, theirs[model])
                else:
                    await self._retire_here(model)
            except CarryoverError as error:
                log.warning("the workers have different networks for the model %s: %s", model, error)

    async def _current_here(self) -> tuple[float, dict[str, str]]:
        """Since when this worker runs, and by model the fingerprint of the network for new sessions."""
        current = self._engine.residents.models.current
        return self._started, {model: slab.forecaster.artifact.fingerprint for model, slab in current.items()}

    async def _adopt_here(self, name: str, fingerprint: str) -> bool:
        forecaster = await asyncio.to_thread(self._library.reload, name)
        if forecaster.artifact.fingerprint != fingerprint:
            raise BadModel(f"the artifact {name!r} changed while it was loaded; reload it once more")
        changed: bool = await submit_and_wait(self._engine.submit_here, Adopt(forecaster))
        return changed

    async def _retire_here(self, model: str) -> None:
        await submit_and_wait(self._engine.submit_here, Retire(model))

    # Reports.

    def problems(self) -> list[str]:
        """Why other workers are not ready for requests; empty if all of them are."""
        if self._engine.draining or self._engine.stopping:  # all workers stop together
            return []
        found: dict[str, None] = {}
        now = monotonic()
        for index, peer in self._peers.items():
            report = self._reports.get(index)
            if not peer.is_connected or report is None:
                found[f"worker {index} is starting"] = None
            elif now - report.received > SILENT_SECONDS:
                found[f"worker {index} does not answer"] = None
            else:
                found.update(dict.fromkeys(report.problems))
        return list(found)

    async def _report(self) -> None:
        while True:
            usage = self._usage.report()
            report = [self.place.index, self._engine.own_readiness_problems(), usage]
            for peer in self._peers.values():
                peer.report(report)
            current = [
                report.usage for index, report in self._reports.items() if self._peers[index].is_connected
            ]
            self._usage.count_elsewhere(current)
            await asyncio.sleep(REPORT_SECONDS)

    def _take_report(self, content: Any) -> None:
        index, problems, usage = content
        report = _Report(problems, msgspec.convert(usage, UsageReport), monotonic())
        self._reports[index] = report
        self._usage.deduct(report.usage)


async def _wait_for_all(events: Sequence[asyncio.Event], seconds: float) -> None:
    """Wait until all are set, but no longer than this."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(event.wait() for event in events))


def _query(fields: Sequence[Any]) -> SessionQuery:
    """A query that came from another worker."""
    query = SessionQuery(*fields)
    return query._replace(labels=tuple(query.labels))


class _Report(msgspec.Struct):
    """What a worker reported last, and when."""

    problems: list[str]
    usage: UsageReport
    received: float
