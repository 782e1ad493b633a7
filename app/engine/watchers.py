"""Who watches which session: what a wave moved is shown to them once it is published.

    engine publishes -> Watches.tell(moved, buried) -> watcher.saw(event), and then the answers leave

A dashboard looks on while other clients feed a session. What it sees is what was applied, never what was only
asked for. While nobody watches, all this costs the engine one look at an empty dict a tick.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from app.jobs.answers import BulkAnswer, ChunkAnswer, SessionView, epoch_token
from app.jobs.jobs import Advance, AdvanceMany, Import, Job, Outcome, Reset
from app.session.slab import Slab
from app.stores import Tombstone

Event = dict[str, Any]
"""What happened to a session, as a watcher is told. `event` is chunk, created, reset, imported or gone."""


class Watcher(Protocol):
    """Looks at one session."""

    def notify(self, event: Event) -> None:
        """Take note; called within a tick, so quick."""


class Watchers:
    """Watchers by the engine's names of the sessions that they watch."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Watcher]] = {}

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def __len__(self) -> int:
        return sum(map(len, self._watchers.values()))

    def add(self, session: str, watcher: Watcher) -> None:
        """Show this watcher what happens to the session from now on, whether it exists yet or not."""
        self._watchers.setdefault(session, set()).add(watcher)

    def remove(self, session: str, watcher: Watcher) -> None:
        """Show it nothing more; one that does not watch is left alone."""
        watchers = self._watchers.get(session, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(session, None)

    def notify(self, moved: Sequence[tuple[Job, Outcome]], removed: Sequence[tuple[Slab, Tombstone]]) -> None:
        """Show what a wave did, once it is committed and published."""
        for job, outcome in moved:
            for session in self._watchers.keys() & job.sessions:
                for event in events(session, job, outcome):
                    self._show(session, event)
        for _, tombstone in removed:
            if tombstone.session in self._watchers:
                self._show(tombstone.session, _gone(tombstone))

    def _show(self, session: str, event: Event) -> None:
        for watcher in self._watchers[session]:
            watcher.notify(event)


def events(session: str, job: Job, outcome: Outcome) -> Iterator[Event]:
    """What a job that moved this session did to it."""
    if isinstance(job, Advance) and isinstance(outcome, ChunkAnswer):
        yield _chunk(outcome.position, outcome.epoch, job.observations, outcome.answer, reset=job.reset)
    elif isinstance(job, AdvanceMany) and isinstance(outcome, BulkAnswer):
        yield _one_of_many(session, job, outcome)
    elif isinstance(outcome, SessionView) and outcome.session == session:  # not the origin of a fork
        kind = "reset" if isinstance(job, Reset) else "imported" if isinstance(job, Import) else "created"
        yield {"event": kind, "position": outcome.position, "epoch": epoch_token(outcome.epoch)}


def _one_of_many(session: str, job: AdvanceMany, outcome: BulkAnswer) -> Event:
    """The chunk of one session among a wave's part of a bulk request: in a part each is named once."""
    i = list(job.sessions).index(session)
    first = int(job.lengths[:i].sum())
    outputs = np.broadcast_to(outcome.outputs, len(job))
    start, width = int((outcome.steps[:i] * outputs[:i]).sum()), int(outputs[i])
    predictions = outcome.numbers[start : start + int(outcome.steps[i]) * width].reshape(-1, width)
    answer = {"predictions": predictions}
    observations = job.observations[first : first + int(job.lengths[i])]
    return _chunk(int(outcome.positions[i]), int(outcome.epochs[i]), observations, answer, reset=False)


def _chunk(position: int, epoch: int, observations: Any, answer: Any, *, reset: bool) -> Event:
    about = {"event": "chunk", "position": position, "epoch": epoch_token(epoch), "reset": reset}
    return {**about, "observations": observations, **answer}


def _gone(tombstone: Tombstone) -> Event:
    return {"event": "gone", "position": tombstone.position, "why": tombstone.reason}
