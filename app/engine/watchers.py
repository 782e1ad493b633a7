"""Notifies the watchers of sessions of the changes of a batch, once they are published.

    engine publishes -> Watchers.notify(moved, removed) -> watcher.notify(event), then send answers

A dashboard watches a session while other clients feed it. It sees what was applied, never what was only
requested. Without watchers the engine only tests an empty dict once in each tick.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from app.engine.batch import AlertEvent
from app.jobs.answers import BulkAnswer, ChunkAnswer, SessionView, epoch_token
from app.jobs.jobs import Advance, AdvanceMany, Event, Import, Job, Outcome, Reset, Watch, Watcher, Write
from app.jobs.text import TextAnswer
from app.session.slab import Slab
from app.stores import Tombstone
from models.forecaster import COVERS


class Watchers:
    """The watchers of each session, by the engine's name of the session."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Watcher]] = {}

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def __len__(self) -> int:
        return sum(map(len, self._watchers.values()))

    def add(self, session: str, watcher: Watcher) -> None:
        """Notify this watcher of the session's events from now on, whether the session exists yet or not."""
        self._watchers.setdefault(session, set()).add(watcher)

    def add_when_answered(self, job: Watch) -> None:
        """Add the watcher of this job just before the job is answered."""
        reply = job.reply

        def add_and_reply(outcome: Outcome) -> None:
            self.add(job.session, job.watcher)
            reply(outcome)

        job.reply = add_and_reply

    def remove(self, session: str, watcher: Watcher) -> None:
        """Stop notifying this watcher; nothing happens if it does not watch the session."""
        watchers = self._watchers.get(session, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(session, None)

    def notify(self, moved: Sequence[tuple[Job, Outcome]], removed: Sequence[tuple[Slab, Tombstone]]) -> None:
        """Send the events of a batch that is committed and published.

        Parameters
        ----------
        moved : jobs and their answers
        removed : tombstones of the sessions that were removed, with their slabs
        """
        for job, outcome in moved:
            for session in self._watchers.keys() & job.sessions:
                for event in events(session, job, outcome):
                    self._send(session, event)
        for _, tombstone in removed:
            if tombstone.session in self._watchers:
                self._send(tombstone.session, _gone(tombstone))

    def notify_alerts(self, alerts: Sequence[AlertEvent]) -> None:
        """Send the alerts of a batch, behind its other events."""
        for alert in alerts if self._watchers else ():
            if alert.session in self._watchers:
                self._send(alert.session, alert.event)

    def _send(self, session: str, event: Event) -> None:
        for watcher in self._watchers[session]:
            watcher.notify(event)


def events(session: str, job: Job, outcome: Outcome) -> Iterator[Event]:
    """The events of this session from a job that moved it."""
    if isinstance(job, Advance) and isinstance(outcome, ChunkAnswer):
        yield _chunk(outcome.position, outcome.epoch, job.observations, outcome.answer, reset=job.reset)
    elif isinstance(job, Write) and isinstance(outcome, TextAnswer):
        yield _text(outcome)
    elif isinstance(job, AdvanceMany) and isinstance(outcome, BulkAnswer):
        i = job.sessions.index(session)  # a session is in a part of a request once
        first, answer = int(job.lengths[:i].sum()), next(islice(outcome.singles(job.sessions), i, None))
        observations = job.observations[first : first + int(job.lengths[i])]
        yield _chunk(answer.position, answer.epoch, observations, answer.answer, reset=False)
    elif (
        isinstance(outcome, SessionView) and outcome.session == session
    ):  # a fork has no event for its origin
        is_import = isinstance(job, Import) and not job.only_new
        kind = "reset" if isinstance(job, Reset) else "imported" if is_import else "created"
        yield {"event": kind, "position": outcome.position, "epoch": epoch_token(outcome.epoch)}


def _chunk(position: int, epoch: int, observations: Any, answer: Any, *, reset: bool) -> Event:
    event = {"event": "chunk", "position": position, "epoch": epoch_token(epoch), "reset": reset}
    if COVERS in answer:  # samples would be most of what is sent, and nobody reads them as numbers
        return {**event, **answer}
    return {**event, "observations": observations, **answer}


def _text(answer: TextAnswer) -> Event:
    written = slice(len(answer.tokens) - answer.written, None)
    return {
        "event": "text",
        "position": answer.position,
        "epoch": epoch_token(answer.epoch),
        "prompt": len(answer.read),
        "observations": [[token] for token in (*answer.read, *answer.tokens[written])],
        "pieces": [*answer.read_pieces, *answer.pieces[written]],
        "finish": answer.finish,
    }


def _gone(tombstone: Tombstone) -> Event:
    return {"event": "gone", "position": tombstone.position, "why": tombstone.reason}
