"""What the engine needs of the other workers of its server, each of which owns a part of the sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from app.jobs.jobs import Job, Watcher
from app.jobs.session_query import Rank, RankedSession, SessionQuery
from app.stores import NamePage


class Peers(Protocol):
    """The other workers. `app.workers.peers` has the implementation."""

    def submit(self, job: Job) -> None:
        """Give a job, or its parts, to the engines that own its sessions, this one included.

        Raises
        ------
        Stopping, Overloaded : nothing was queued, and `reply` is not called
        """

    def unwatch(self, session: str, watcher: Watcher) -> None:
        """Stop notifying a watcher of a session that another worker owns."""

    async def ranked(
        self, query: SessionQuery, after: Rank | None, limit: int
    ) -> Sequence[list[RankedSession]]:
        """`Engine.ranked_here` of each other worker."""

    async def by_name(self, query: SessionQuery, after: str, limit: int) -> Sequence[NamePage]:
        """`Engine.by_name_here` of each other worker."""

    async def count_sessions(self, tenant: str | None) -> int:
        """Number of sessions that other workers own."""

    async def ask_reachable(self, question: str, *arguments: Any) -> list[Any]:
        """Ask every other worker that can be reached. A worker that is starting again is left out."""

    def problems(self) -> list[str]:
        """Why other workers are not ready for requests; empty if all of them are."""
