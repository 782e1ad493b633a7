"""Chunks that connections have received and that are no jobs yet (`app.protocols.inbox`, `message_inbox`)."""

from __future__ import annotations

import logging

from app.jobs.jobs import ChunkSource

log = logging.getLogger("carryover.engine")


class Arrivals(list[ChunkSource]):
    """Sources of chunks. The engine has them submit before each batch, a job for each caller."""

    def __bool__(self) -> bool:
        """Whether a chunk has come in."""
        return any(self)

    def submit(self) -> None:
        """Submit what has come in; a source that fails does not keep the others from it."""
        for source in self:
            if source:
                try:
                    source.submit()
                except Exception:
                    log.exception("chunks that came in could not be submitted; the other sources go on")
