"""Chunks that other workers have handed over since the last batch: submitted together.

A batch costs nearly the same for one chunk as for ten. Each of N workers hands over a few chunks at a time,
so their jobs are put together, as the inbox does with the requests of many connections.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from app.engine.engine import Engine
from app.errors import CarryoverError, StepFailed
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import AdvanceMany, Reply, SeparateReplies
from app.jobs.session_list import SessionList
from models.arrays import Ints

log = logging.getLogger("carryover.workers")


class HandedOverChunks:
    """Jobs of chunks whose answers need not leave together, in the order in which they came in.

    Parameters
    ----------
    engine : asks for them before each batch
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: list[AdvanceMany] = []
        engine.arrivals.append(self)

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: AdvanceMany) -> None:
        """Take a job; its reply is one of `SeparateReplies`."""
        self._jobs.append(job)
        if self._engine.stopping:  # it may collect no other batch
            self.submit()
        else:
            self._engine.wake()

    def submit(self) -> None:
        """Submit all jobs: as few as possible, none of which names a session twice."""
        jobs, self._jobs = self._jobs, []
        group: list[AdvanceMany] = []
        names: set[str] = set()
        for job in jobs:
            if group and not (_are_alike(group[0], job) and names.isdisjoint(job.sessions)):
                self._submit(group)
                group, names = [], set()
            group.append(job)
            names.update(job.sessions)
        if group:
            self._submit(group)

    def _submit(self, jobs: list[AdvanceMany]) -> None:
        job = jobs[0] if len(jobs) == 1 else _merged(jobs)
        refusal: CarryoverError
        try:
            self._engine.submit_here(job)
            return
        except CarryoverError as error:
            refusal = error
        except Exception:
            log.exception("%d chunks of other workers could not be submitted", len(job))
            refusal = StepFailed("the server failed; see its log")
        if job.usage is not None:
            job.usage.release(len(job))
        job.reply(refusal)


def _are_alike(first: AdvanceMany, second: AdvanceMany) -> bool:
    """Whether one job can be made of both."""
    return (
        first.usage is second.usage
        and first.model == second.model
        and first.create == second.create
        and first.options is second.options is None
        and first.observations.shape[1] == second.observations.shape[1]
    )


def _merged(jobs: Sequence[AdvanceMany]) -> AdvanceMany:
    has_positions = any(job.at is not None for job in jobs)
    has_epochs = any(job.epochs is not None for job in jobs)
    return AdvanceMany(
        SessionList(chain.from_iterable(job.sessions for job in jobs)),
        np.concatenate([job.observations for job in jobs]),
        np.concatenate([job.lengths for job in jobs]),
        np.concatenate([job.claimed_positions for job in jobs]) if has_positions else None,
        np.concatenate([job.claimed_epochs for job in jobs]) if has_epochs else None,
        jobs[0].model,
        _Replies([(job.reply, len(job)) for job in jobs]),
        usage=jobs[0].usage,
        requests=sum(job.requests for job in jobs),
        create=jobs[0].create,
    )


class _Replies(SeparateReplies):
    """Answers the jobs that a job was made of.

    Parameters
    ----------
    replies : of each job, and how many chunks it has
    """

    def __init__(self, replies: Sequence[tuple[Any, int]]) -> None:
        self._replies = [reply for reply, _ in replies]
        self._ends = np.cumsum([count for _, count in replies])
        self._starts = np.concatenate([[0], self._ends[:-1]])

    def __call__(self, outcome: Any) -> None:
        for reply, start, end in zip(self._replies, self._starts, self._ends, strict=True):
            reply(_part(outcome, np.arange(start, end)))

    def subset_reply(self, indexes: Ints) -> Reply:
        owners = np.searchsorted(self._ends, indexes, side="right")
        parts = []
        for job in np.unique(owners).tolist():
            chosen = np.flatnonzero(owners == job)
            parts.append((self._replies[job].subset_reply(indexes[chosen] - self._starts[job]), chosen))

        def reply(outcome: Any) -> None:
            for reply_part, chosen in parts:
                reply_part(_part(outcome, chosen))

        return reply


def _part(outcome: Any, indexes: Ints) -> Any:
    """What an outcome says of the chunks at these indexes: an error concerns each of them."""
    return outcome.select(indexes) if isinstance(outcome, BulkAnswer) else outcome
