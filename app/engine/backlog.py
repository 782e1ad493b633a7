"""The jobs that are not answered yet. Chooses those of the next batch.

A job waits in the queue until it is taken. A slow job is taken several times. Between two of its batches it
waits beside the queue, and no other job of its session runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.config import Settings
from app.engine.batch import Batch
from app.engine.fair_share import BULK_SESSIONS_PER_CHUNK, FairShare
from app.engine.join import join_chunks
from app.engine.queue import JobQueue
from app.engine.slow_jobs import SlowJobs
from app.engine.step import Stepper
from app.engine.time_budget import MIN_OBSERVATIONS
from app.errors import Overloaded
from app.jobs.jobs import AdvanceMany, Job
from app.jobs.session_list import SessionNames
from app.jobs.split import split_job


class Backlog:
    """The queue and the slow jobs.

    Its length is the number of chunks and commands that wait, slow jobs included.

    Parameters
    ----------
    settings : the limits of the queue and of a batch
    fair_share : says how much of a batch one tenant may take
    stepper : says how much one batch can compute
    """

    def __init__(self, settings: Settings, fair_share: FairShare, stepper: Stepper) -> None:
        # Copied, because they are read for every job or tick, and a pydantic attribute is 3 times slower.
        self._max_jobs, self._max_bytes = settings.queue_jobs, settings.queue_bytes
        self._max_sessions = settings.batch_sessions
        self._fair_share = fair_share
        self._stepper = stepper
        self.queue = JobQueue()
        self.slow = SlowJobs(max(1, settings.batch_sessions // 4))

    def __len__(self) -> int:
        return len(self.queue) + len(self.slow)

    def __bool__(self) -> bool:
        """Whether there is a job for the next batch."""
        return bool(self.queue or self.slow)

    def split(self, job: Job) -> Sequence[Job]:
        """Split a job into parts that fit a batch, for `add`. Most jobs are not split.

        Raises
        ------
        Overloaded : too much waits already
        """
        # A job of a model: after SIGHUP nobody would try again, and other workers have reloaded.
        if not job.sessions:
            return (job,)
        if len(self) >= self._max_jobs:
            raise Overloaded(f"{self._max_jobs} jobs are waiting already")
        if self.queue.nbytes > self._max_bytes:
            raise Overloaded(f"{self._max_bytes} bytes of observations are waiting already")
        if type(job) is not AdvanceMany:
            return (job,)
        return split_job(job, *self._part_limits())

    def fits(self, job: AdvanceMany) -> bool:
        """Whether a job is not too large for one batch."""
        if len(job.observations) <= min(MIN_OBSERVATIONS, self._max_sessions, self._fair_share.limit):
            return True  # whatever the models cost: the limits below take longer to find
        max_sessions, max_observations = self._part_limits()
        return len(job) <= max_sessions and len(job.observations) <= max_observations

    def _part_limits(self) -> tuple[int, int]:
        """The most sessions and observations of a part of a job."""
        max_sessions = min(self._max_sessions, BULK_SESSIONS_PER_CHUNK * self._fair_share.limit)
        return max_sessions, self._stepper.max_observations

    def add(self, jobs: Iterable[Job]) -> None:
        """Queue jobs."""
        for job in jobs:
            self.queue.add(job)

    def drop_cancelled(self) -> Sequence[Job]:
        """Remove the slow jobs whose clients have disconnected. Their sessions are busy until `finish`."""
        self.slow.put(self.queue.take_slow())
        return self.slow.drop_cancelled() if self.slow else ()

    def take(self, now: float) -> Batch:
        """Take the next batch: a few slow jobs, and ready jobs up to the limits on sessions and bytes."""
        max_slow = min(self._stepper.max_slow_jobs, self.slow.max_begun)
        pinned: SessionNames = self.slow.pinned if self.slow else frozenset()
        sessions_left = self._max_sessions - min(len(self.slow), max_slow) - len(pinned)
        taken: list[Job] = []
        if sessions_left > 0:
            taken = self.queue.take(sessions_left, self._stepper.max_nbytes, self._fair_share.limit)
            taken = join_chunks(taken, self._stepper.max_joined)
        if len(taken) == 1 and not self.slow and type(taken[0]) is AdvanceMany:
            # Use the job's own set, because copying a thousand names can take longer than the batch itself.
            return Batch(now, taken, taken[0].sessions.unique)
        may_begin = self.slow.may_begin  # those that are taken below have begun, too
        if self.slow:
            taken += self.slow.take(max_slow)
            pinned = self.slow.pinned
        sessions = {session for job in taken for session in job.sessions}
        return Batch(now, taken, sessions, pinned, may_begin)

    def finish(self, batch: Batch) -> None:
        """Keep the batch's unfinished jobs and retries. Make the next job of each other session ready."""
        self.slow.put(batch.unfinished)
        kept = {session for job in (*batch.unfinished, *batch.retries) for session in job.sessions}
        self.queue.finish(batch.sessions - kept if kept else batch.sessions)
        for job in batch.retries:
            self.queue.requeue(job)

    def drain(self) -> list[Job]:
        """Remove every job. Their sessions are busy until `finish`."""
        return [*self.slow.drain(), *self.queue.drain()]
