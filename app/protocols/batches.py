"""Chunks of many requests or messages: submitted as one job, and answered together where they can be."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

from app.access.callers import Caller
from app.errors import CarryoverError, StepFailed
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import AdvanceMany, Reply, SeparateReplies

log = logging.getLogger("carryover.api")


class BatchReplies(SeparateReplies):
    """Answers chunks: those that are applied together in one pass, and each of the others alone.

    Parameters
    ----------
    sessions : [n], the id of each chunk's session
    """

    __slots__ = ("_sessions", "are_sent")

    def __init__(self, sessions: Sequence[str]) -> None:
        self._sessions = sessions
        self.are_sent = False  # all of them

    def single_reply(self, i: int) -> Reply:
        return partial(self._reply_alone, i)

    def __call__(self, outcome: Any) -> None:
        if self.are_sent:  # after a failure, when it was unknown what the engine had taken
            return
        self.are_sent = True
        if not isinstance(outcome, BulkAnswer):
            for i in range(len(self._sessions)):
                self._reply_alone(i, outcome)
        elif not outcome.is_plain:
            for i, answer in enumerate(outcome.singles(self._sessions)):
                self._reply_alone(i, answer)
        else:
            self._reply_together(outcome)

    @abstractmethod
    def _reply_alone(self, i: int, outcome: Any) -> None:
        """Answer the chunk at this index."""

    @abstractmethod
    def _reply_together(self, answer: BulkAnswer) -> None:
        """Answer all chunks: none was refused or replayed, and there are no outputs but predictions."""


def submit_together(caller: Caller, job: AdvanceMany) -> bool:
    """Submit chunks of different requests as one job. Returns whether they were taken."""
    usage = caller.usage
    if caller.is_revoked or len(job) > usage.room or not usage.covers(len(job.observations)):
        return False
    try:
        caller.submit(job)
    except CarryoverError:
        return False
    except Exception:  # answered, not tried again: it is unknown what the engine has taken
        log.exception("%d chunks could not be submitted", len(job))
        job.reply(StepFailed("the server failed; see its log"))
    return True
