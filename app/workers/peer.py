"""Another worker, as this one sees it: jobs and questions go there, answers and events come back.

A job is answered exactly once. If the connection is lost before the answer, it is answered with
`WorkerUnavailable`: nobody knows whether the other worker has applied it. A client that sends it again with
`at` gets the same answer as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from app.engine.reply import call_reply
from app.errors import CarryoverError, Overloaded, StepFailed, WorkerUnavailable
from app.jobs.jobs import Advance, AdvanceMany, Job, SeparateReplies, Watch, Watcher, is_cancelled
from app.workers.frames import FrameConnection, Kind
from app.workers.values import PartAnswer, decode

log = logging.getLogger("carryover.workers")

CONNECT_SECONDS = 0.1  # between two attempts
ANSWER_SECONDS = 5.0  # for the answer to a question
NOT_SENT = "the request cannot be sent to the worker that has this session; see the server's log"


class Peer:
    """One other worker.

    Parameters
    ----------
    index : of the worker
    path : of the socket that it listens on
    max_jobs, max_bytes : chunks and commands, and bytes of observations, that may wait for it at once
    """

    def __init__(self, index: int, path: Path, max_jobs: int, max_bytes: int) -> None:
        self.index = index
        self._path = path
        self._max_jobs, self._max_bytes = max_jobs, max_bytes
        self._connection: _Connection | None = None
        self._number = 0
        self._jobs: dict[int, Job] = {}  # that wait for their answers
        self._count = self._nbytes = 0  # chunks and commands of those jobs, and bytes of their observations
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._watches: dict[int, Watch] = {}
        self._left: dict[int, set[int]] = {}  # by number of a job, its chunks that are not answered yet
        self._lost = asyncio.Event()
        self.idle = asyncio.Event()  # while no job waits for its answer
        self.idle.set()

    @property
    def is_connected(self) -> bool:
        """Whether the other worker can be reached."""
        return self._connection is not None

    async def stay_connected(self) -> None:
        """Connect, again and again, until this is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                with suppress(OSError):
                    _, self._connection = await loop.create_unix_connection(
                        lambda: _Connection(self), str(self._path)
                    )
                    self._lost.clear()
                    await self._lost.wait()
                await asyncio.sleep(CONNECT_SECONDS)
        finally:
            if self._connection is not None:
                self._connection.close()

    def submit(self, job: Job) -> None:
        """Send a job. Its `reply` is called exactly once, possibly within this call."""
        connection = self._connection
        if connection is None:
            self._answer(job, self.unavailable_error())
        elif self._count >= self._max_jobs or self._nbytes > self._max_bytes:
            self._answer(job, Overloaded(f"too many requests wait for worker {self.index} already"))
        else:
            self._number += 1
            is_separate = isinstance(job.reply, SeparateReplies)
            try:
                connection.send(Kind.SEPARATE_JOB if is_separate else Kind.JOB, self._number, job)
            except Exception:
                log.exception("a job could not be encoded for worker %d", self.index)
                self._answer(job, StepFailed(NOT_SENT))
                return
            self._jobs[self._number] = job
            self.idle.clear()
            self._count += len(job.sessions)
            self._nbytes += job.nbytes
            if type(job) is Watch:
                self._watches[self._number] = job

    async def ask(self, question: str, *arguments: Any, seconds: float = ANSWER_SECONDS) -> Any:
        """Ask the worker as a whole.

        Parameters
        ----------
        seconds : time limit

        Raises
        ------
        WorkerUnavailable : it cannot be reached, or does not answer in time
        CarryoverError : it refuses
        """
        if self._connection is None:
            raise self.unavailable_error()
        self._number += 1
        number = self._number
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._connection.send(Kind.QUESTION, number, [question, *arguments])
        self._questions[number] = answered
        try:
            async with asyncio.timeout(seconds):
                outcome = await answered
        except TimeoutError:
            raise WorkerUnavailable(f"worker {self.index} does not answer; try again later") from None
        finally:
            self._questions.pop(number, None)
        if isinstance(outcome, CarryoverError):
            raise outcome
        return outcome

    def unwatch(self, session: str, watcher: Watcher) -> None:
        """Stop notifying this watcher; nothing happens if it does not watch the session."""
        for number, watch in list(self._watches.items()):
            if watch.session == session and watch.watcher is watcher:
                del self._watches[number]
                if self._connection is not None:
                    self._connection.send(Kind.UNWATCH, number)

    def report(self, report: list[Any]) -> None:
        """Send a report, and which clients have gone."""
        if self._connection is None:
            return
        self._connection.send(Kind.REPORT, 0, report)
        for number, job in self._jobs.items():
            if is_cancelled(job):
                self._connection.send(Kind.LEFT, number)

    def send_alerts(self, alerts: list[list[Any]]) -> None:
        """Send alerts for the readers of the other worker."""
        if self._connection is not None:
            self._connection.send(Kind.ALERTS, 0, alerts)

    def finish(self) -> None:
        """Say that no job will come any more."""
        if self._connection is not None:
            self._connection.send(Kind.FINISHED)

    def unavailable_error(self) -> WorkerUnavailable:
        """The error for a job that this worker has not answered."""
        return WorkerUnavailable("the worker that has this session is starting; send the request again")

    def receive(self, kind: int, number: int, body: bytes) -> None:
        """Handle a frame."""
        if kind == Kind.EVENT:
            watch = self._watches.get(number)
            if watch is not None:
                watch.watcher.notify(decode(body))
        elif (question := self._questions.get(number)) is not None:
            if not question.done():
                question.set_result(decode(body))
        elif kind == Kind.PART:
            self._answer_part(number, decode(body))
        elif number in self._jobs:  # or it answers a question too late, and nobody waits for it any more
            answer = decode(body)  # before it is popped: one that cannot be read fails with its connection
            self._answer(self._pop(number), answer)

    def lose(self) -> None:
        """Answer everything that waits: the connection is lost."""
        self._connection = None
        self._lost.set()
        error = self.unavailable_error()
        for question in self._questions.values():
            if not question.done():
                question.set_result(error)
        watches, self._watches = self._watches, {}
        for number in list(self._jobs):
            watches.pop(number, None)  # it learns from the answer
            if (left := self._left.get(number)) is None:
                self._answer(self._pop(number), error)
            else:
                self._answer_part(number, PartAnswer(np.array(sorted(left)), error))
        for watch in watches.values():
            watch.watcher.end()

    def _answer_part(self, number: int, part: PartAnswer) -> None:
        """Answer some chunks of a job; with the last of them the job is answered."""
        job = self._jobs[number]
        if not isinstance(job, AdvanceMany) or not isinstance(job.reply, SeparateReplies):
            raise TypeError("only a job of many chunks is answered in parts")
        left = self._left.setdefault(number, set(range(len(job))))
        left.difference_update(part.indexes.tolist())
        if not left:
            self._pop(number)
        if job.usage is not None:
            job.usage.release(len(part.indexes))
        try:
            job.reply.subset_reply(part.indexes)(part.outcome)
        except Exception:
            log.exception("the reply of a part of a job raised; the others are answered")

    def _pop(self, number: int) -> Job:
        job = self._jobs.pop(number)
        self._left.pop(number, None)
        self._count -= len(job.sessions)
        self._nbytes -= job.nbytes
        if not self._jobs:
            self.idle.set()
        return job

    def _answer(self, job: Job, outcome: Any) -> None:
        if isinstance(job, Advance | AdvanceMany) and job.usage is not None:
            job.usage.release(len(job.sessions))
        call_reply(job, outcome)


class _Connection(FrameConnection):
    """The end from which jobs go."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.receive = peer.receive  # type: ignore[method-assign]
        self._peer = peer

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._peer.lose()
