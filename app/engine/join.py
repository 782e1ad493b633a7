"""Joins the chunks that wait alone, so that a batch works on columns however its chunks came in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.engine.reply import call_reply
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import Advance, AdvanceMany, Job, SeparateReplies
from app.jobs.session_list import SessionList
from models.arrays import Ints


def join_chunks(jobs: Sequence[Job], max_whole: int) -> list[Job]:
    """The jobs of a batch, in which only unusual chunks are alone.

    Parameters
    ----------
    max_whole : observations of the longest chunk that is not unusual
    """
    singles: dict[Any, list[Advance]] = {}
    columns: dict[Any, list[AdvanceMany]] = {}
    others: list[Job] = []
    for job in jobs:
        if type(job) is Advance and not job.is_unusual(max_whole):
            singles.setdefault(_kind(job), []).append(job)
        elif type(job) is AdvanceMany and isinstance(job.reply, SeparateReplies) and job.options is None:
            columns.setdefault((type(job.reply), id(job.client), *_kind(job)), []).append(job)
        else:
            others.append(job)
    joined = [part for group in columns.values() for part in _join_columns(group)]
    return [*map(_join, singles.values()), *joined, *others]


def _kind(job: Advance | AdvanceMany) -> tuple[Any, ...]:
    """What jobs must have in common to be joined."""
    return job.usage, job.model, job.create, job.observations.shape[1], job.observations.dtype


def _join_columns(jobs: Sequence[AdvanceMany]) -> Sequence[AdvanceMany]:
    """One job of jobs that name no session twice; themselves if their replies cannot be joined.

    Where a session has several messages in flight, those behind the first wait each for itself
    (`app.engine.queue`). Joined, 64 sockets with 8 chunks of 50 in flight are answered 1.4 times as fast.
    """
    first = jobs[0]
    replies: list[Any] = [job.reply for job in jobs]
    if len(jobs) == 1 or (reply := replies[0].join(replies[1:])) is None:
        return jobs
    return [
        AdvanceMany(
            SessionList([name for job in jobs for name in job.sessions]),
            np.concatenate([job.observations for job in jobs]),
            np.concatenate([job.lengths for job in jobs]),
            np.concatenate([job.claimed_positions for job in jobs]),
            np.concatenate([job.claimed_epochs for job in jobs]),
            first.model,
            reply,
            client=first.client,
            usage=first.usage,
            requests=sum(job.requests for job in jobs),
            create=first.create,
        )
    ]


def _join(jobs: Sequence[Advance]) -> AdvanceMany:
    observations = [job.observations for job in jobs]
    return AdvanceMany(
        SessionList([job.session for job in jobs]),
        np.concatenate(observations),
        np.array([len(chunk) for chunk in observations]),
        np.array([-1 if job.at is None else job.at for job in jobs]),
        np.array([job.epoch or 0 for job in jobs], np.uint64),
        jobs[0].model,
        _JoinedReplies(jobs),
        usage=jobs[0].usage,
        requests=len(jobs),
        create=jobs[0].create,
    )


class _JoinedReplies(SeparateReplies):
    """Answers each of the jobs that were joined."""

    def __init__(self, jobs: Sequence[Advance]) -> None:
        self._jobs = jobs

    def __call__(self, outcome: Any) -> None:
        if isinstance(outcome, BulkAnswer):
            answers = outcome.singles([job.session for job in self._jobs])
            for job, answer in zip(self._jobs, answers, strict=True):
                call_reply(job, answer)
        else:
            for job in self._jobs:
                call_reply(job, outcome)

    def subset_reply(self, indexes: Ints) -> _JoinedReplies:
        return _JoinedReplies([self._jobs[i] for i in indexes.tolist()])
