"""What a worker does for the others: it takes their jobs and answers their questions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from app.access.callers import Authenticator
from app.engine.engine import Engine
from app.errors import CarryoverError, StepFailed
from app.jobs.jobs import (
    Advance,
    AdvanceMany,
    Client,
    Event,
    Export,
    Forecast,
    Job,
    Reply,
    SeparateReplies,
    Watch,
)
from app.session.names import tenant_of
from app.workers.frames import FrameConnection, Kind
from app.workers.handed_over import HandedOverChunks
from app.workers.values import PartAnswer, decode
from models.arrays import Ints

log = logging.getLogger("carryover.workers")

FAILED = "the server failed; see its log"
Answer = Callable[..., Awaitable[Any]]
"""Answers a question about the worker as a whole."""


class ServedPeer(FrameConnection):
    """A connection on which another worker sends jobs and questions.

    Parameters
    ----------
    engine : gets the jobs
    chunks : gets those that need not be answered together
    authenticator : knows the share of each tenant
    answers : to questions, by name
    take_report : takes what the other worker reports
    take_alerts : takes the alerts of its sessions
    """

    def __init__(
        self,
        engine: Engine,
        chunks: HandedOverChunks,
        authenticator: Authenticator,
        answers: dict[str, Answer],
        take_report: Callable[[Any], None],
        take_alerts: Callable[[Any], None],
    ) -> None:
        super().__init__()
        self.finished = asyncio.Event()  # no job will come any more
        self.is_lost = False
        self._engine = engine
        self._chunks = chunks
        self._authenticator = authenticator
        self._answers = answers
        self._take_report = take_report
        self._take_alerts = take_alerts
        self._clients: dict[int, Client] = {}  # of jobs that are not answered yet
        self._watchers: dict[int, _DistantWatcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.is_lost = True
        self.finished.set()
        for client in self._clients.values():
            client.left = True
        for watcher in self._watchers.values():
            watcher.stop()
        for task in self._tasks:
            task.cancel()

    def receive(self, kind: int, number: int, body: bytes) -> None:
        match kind:
            case Kind.JOB | Kind.SEPARATE_JOB:
                job = decode(body)
                is_separate = kind == Kind.SEPARATE_JOB
                job.reply = _Answers(self, number, len(job)) if is_separate else partial(self.answer, number)
                self._submit(number, job)
            case Kind.LEFT:
                if number in self._clients:
                    self._clients[number].left = True
            case Kind.UNWATCH:
                if number in self._watchers:
                    self._watchers.pop(number).stop()
            case Kind.QUESTION:
                task = asyncio.get_running_loop().create_task(self._answer(number, *decode(body)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Kind.REPORT:
                self._take_report(decode(body))
            case Kind.ALERTS:
                self._take_alerts(decode(body))
            case Kind.FINISHED:
                self.finished.set()

    def _submit(self, number: int, job: Job) -> None:
        if isinstance(job, Forecast | Export | Advance | AdvanceMany):
            job.client = self._clients[number] = Client()
        if isinstance(job, Watch):
            watcher = self._watchers[number] = _DistantWatcher(self, number, job.session)
            job.watcher, job.reply = watcher, watcher.answer
        release = self._count(job)
        if isinstance(job, AdvanceMany) and isinstance(job.reply, SeparateReplies):
            self._chunks.put(job)
            return
        self._chunks.submit()  # a chunk that came in before this job goes before it
        try:
            self._engine.submit_here(job)
        except CarryoverError as error:
            release()
            job.reply(error)
        except Exception:
            log.exception("a job of another worker could not be submitted")
            release()
            job.reply(StepFailed(FAILED))

    def answer(self, number: int, outcome: Any) -> None:
        """Answer a job as a whole."""
        self._clients.pop(number, None)
        self._send_answer(number, outcome)

    def answer_part(self, number: int, part: PartAnswer, *, is_last: bool) -> None:
        """Answer some chunks of a job."""
        if is_last:
            self._clients.pop(number, None)
        try:
            self.send(Kind.PART, number, part)
        except Exception:
            log.exception("the answer to some chunks of another worker could not be encoded")
            self.send(Kind.PART, number, PartAnswer(part.indexes, StepFailed(FAILED)))

    def _send_answer(self, number: int, outcome: Any) -> None:
        """Send an answer. What cannot be encoded is answered, too: the other worker waits for it."""
        try:
            self.send(Kind.ANSWER, number, outcome)
        except Exception:
            log.exception("an answer to another worker could not be encoded")
            self.send(Kind.ANSWER, number, StepFailed(FAILED))

    def _count(self, job: Job) -> Callable[[], None]:
        """Count chunks in the share of their tenant here. Returns what undoes it."""
        tenant = tenant_of(job.sessions[0]) if job.sessions else ""
        if not tenant or not isinstance(job, Advance | AdvanceMany):
            return lambda: None
        share, count = self._authenticator.share(tenant), len(job.sessions)
        job.usage = share
        share.acquire(count)
        return lambda: share.release(count)

    async def _answer(self, number: int, question: str, *arguments: Any) -> None:
        try:
            outcome = await self._answers[question](*arguments)
        except CarryoverError as error:
            outcome = error
        except Exception:
            log.exception("the question %s of another worker could not be answered", question)
            outcome = StepFailed(FAILED)
        self._send_answer(number, outcome)

    def unwatch(self, watcher: _DistantWatcher) -> None:
        """Stop notifying a watcher."""
        self._engine.watchers.remove(watcher.session, watcher)


class _Answers(SeparateReplies):
    """Answers the chunks of a job of another worker.

    Parameters
    ----------
    count : chunks of the job
    """

    def __init__(self, connection: ServedPeer, number: int, count: int) -> None:
        self._connection = connection
        self._number = number
        self._left = count  # chunks without an answer

    def __call__(self, outcome: Any) -> None:
        self._connection.answer(self._number, outcome)

    def subset_reply(self, indexes: Ints) -> Reply:
        return partial(self._answer_part, indexes)

    def _answer_part(self, indexes: Ints, outcome: Any) -> None:
        self._left -= len(indexes)
        part = PartAnswer(indexes, outcome)
        self._connection.answer_part(self._number, part, is_last=self._left == 0)


class _DistantWatcher:
    """A watcher that is connected to another worker."""

    def __init__(self, connection: ServedPeer, number: int, session: str) -> None:
        self.session = session
        self._connection = connection
        self._number = number
        self._is_stopped = False

    def answer(self, outcome: Any) -> None:
        """Answer its job. The engine has just added it, though its client may have left meanwhile."""
        if self._is_stopped:
            self._connection.unwatch(self)
        self._connection.answer(self._number, outcome)

    def notify(self, event: Event) -> None:
        self._connection.send(Kind.EVENT, self._number, event)

    def end(self) -> None:
        """The other worker sees that the connection is lost."""

    def stop(self) -> None:
        self._is_stopped = True
        self._connection.unwatch(self)
