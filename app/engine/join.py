"""Joins the chunks that came alone, so that a batch works on columns however its chunks came in."""

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
    groups: dict[Any, list[Advance]] = {}
    others: list[Job] = []
    for job in jobs:
        if type(job) is Advance and not job.is_unusual(max_whole):
            alike = job.usage, job.model, job.create, job.observations.shape[1], job.observations.dtype
            groups.setdefault(alike, []).append(job)
        else:
            others.append(job)
    return [*map(_join, groups.values()), *others]


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
