"""The loop of `carryover connect`: receive, send a chunk for each session, publish, acknowledge.

    receive -> locate -> prepare -> advance -> commit

All that waits at a broker is one batch. A round sends the first messages of every session of the batch as one
bulk request and commits, until the batch is empty. While a round runs the broker collects the next batch, so
a busy stream is sent in large chunks and a quiet one message by message. Nothing is received before the batch
is done: what a bridge holds is bounded, and the broker holds the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import carryover
from carryover import Answer, Carryover, ModelInfo, Prediction

from app.connectors.lane import Item, Lane
from app.connectors.names import Template, session_id
from app.connectors.source import (
    BadMessage,
    ConnectorError,
    Location,
    Message,
    Outcome,
    Place,
    Publication,
    Source,
    retry,
)
from app.connectors.values import Reader
from app.errors import ConfigError

log = logging.getLogger("carryover.connect")

LATER = carryover.Unavailable
ABSENT = (carryover.UnknownSession, carryover.SessionGone)
REFUSED = (
    carryover.Malformed,
    carryover.Unprocessable,
    carryover.TooLarge,
    carryover.SessionExists,
    carryover.OtherModel,
    carryover.SessionDamaged,
    carryover.StepFailed,
)
"""Refusals of a chunk for what it holds or for its session. Any other error ends the bridge."""


@dataclass(frozen=True)
class Options:
    """What to send, and what to publish.

    session, publish, alarms, dead_letter : templates
    alarm_above : a surprise above it is an alarm
    in_flight : most messages that the bridge holds
    chunk : most observations of one session in a request
    report_seconds : pause between two lines of rates in the log
    """

    session: Template
    publish: Template | None = None
    alarms: Template | None = None
    dead_letter: Template | None = None
    alarm_above: float | None = None
    score: bool = False
    level: float | None = None
    in_flight: int = 1000
    chunk: int = 256
    report_seconds: float = 10.0


@dataclass
class Counts:
    """Totals since the start."""

    received: int = 0
    applied: int = 0
    replayed: int = 0
    rejected: int = 0
    alarms: int = 0


@dataclass
class _Batch:
    lanes: dict[str, Lane] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)


class Bridge:
    """Sends the messages of a source to a server.

    Parameters
    ----------
    source : not connected yet
    service : a client that does not retry; the bridge must know of every request without an answer
    model : the model whose inputs the messages hold
    stop : set when the bridge must end; the batch in hand is finished first
    """

    def __init__(
        self,
        source: Source,
        service: Carryover,
        model: ModelInfo,
        reader: Reader,
        options: Options,
        stop: threading.Event,
    ) -> None:
        self.source = source
        self.service = service
        self.model = model
        self.reader = reader
        self.options = options
        self.stop = stop
        self.counts = Counts()
        self._places: dict[str, Place] = {}
        self._uncertain: set[str] = set()
        self._most_lanes: int | None = None  # in a request; None: all
        self._reported = time.monotonic(), 0

    def run(self) -> None:
        """Run until `stop` is set.

        Raises
        ------
        Stopped : it was set while a broker or the server was away
        ConnectorError, carryover.CarryoverError : the bridge cannot go on
        """
        self.source.connect()
        log.info("connected; %s", self.source.guarantee)
        while not self.stop.is_set():
            messages = self.source.receive(self.options.in_flight, 1.0)
            if messages:
                self.process(messages)
            self._report()

    def process(self, messages: Sequence[Message]) -> None:
        """Send these messages, and acknowledge each."""
        self.counts.received += len(messages)
        self._most_lanes = None
        batch = _Batch()
        self._sort(messages, batch)
        while batch.lanes:
            self._round(batch)
            self._commit(batch)
        if batch.outcome.messages:
            self._commit(batch)

    def _sort(self, messages: Iterable[Message], batch: _Batch) -> None:
        """Put each message into the lane of its session."""
        waiting: dict[str, list[Item]] = {}
        for message in messages:
            try:
                session = session_id(self.options.session, message.names, self.source.slashes)
                item = Item(message, session, self.reader.read(message.payload))
                self._targets(item, alarm=True)  # before it is applied: it could not be published behind
            except BadMessage as reason:
                self._reject(message, str(reason), batch.outcome)
            else:
                waiting.setdefault(session, []).append(item)
        known = self._locate(waiting)
        for session, items in waiting.items():
            lane = Lane(session, self._places[session], session not in self._uncertain)
            applied = known.get(session, Location()).applied
            batch.outcome.messages += [item.message for item in items[:applied]]
            lane.items.extend(items[applied:])
            if lane.items:
                batch.lanes[session] = lane

    def _locate(self, waiting: dict[str, list[Item]]) -> dict[str, Location]:
        """Find the places of sessions that this run has not sent a chunk to yet."""
        new = {name: items for name, items in waiting.items() if name not in self._places}
        if not new:
            return {}
        known = self.source.locate({name: [item.message for item in items] for name, items in new.items()})
        unknown = []
        for name in new:
            location = known.get(name, Location())
            if location.place is None:
                unknown.append(name)
                continue
            self._places[name] = location.place
            if not location.certain:
                self._uncertain.add(name)
        for name in unknown:
            self._places[name] = self._await(lambda name=name: self._ask(name))
        return known

    def _ask(self, session: str) -> Place:
        try:
            info = self.service.session(session).info()
        except ABSENT:
            return Place(0)
        return Place(info.position, info.epoch)

    def _round(self, batch: _Batch) -> None:
        """Send the first messages of every lane as one request."""
        lanes = islice(batch.lanes.items(), self._most_lanes)
        chunks = {name: lane.chunk(self.options.chunk) for name, lane in lanes}
        self.source.prepare(
            {
                name: (batch.lanes[name].place, [item.message for item in chunk])
                for name, chunk in chunks.items()
            }
        )
        try:
            answers = self._await(lambda: self._advance(batch, chunks))
        except carryover.TooLarge as error:
            self._divide(batch, chunks, error)
            return
        for name, chunk in chunks.items():
            self._settle(batch, batch.lanes[name], chunk, answers)
            self._places[name] = batch.lanes[name].place
            if batch.lanes[name].certain:
                self._uncertain.discard(name)
            if not batch.lanes[name].items:
                del batch.lanes[name]

    def _divide(self, batch: _Batch, chunks: dict[str, list[Item]], error: carryover.TooLarge) -> None:
        """After a request that is refused for its size, send fewer sessions at once, or single messages."""
        if len(chunks) > 1:
            self._most_lanes = len(chunks) // 2
            return
        for name, chunk in chunks.items():
            lane = batch.lanes[name]
            if len(chunk) > 1:
                lane.single = len(chunk)
                continue
            self._give_up(batch, lane.take(1), str(error))
            if not lane.items:
                del batch.lanes[name]

    def _advance(self, batch: _Batch, chunks: dict[str, list[Item]]) -> carryover.BulkAnswer:
        """One attempt. After a request without an answer, no place of it is certain."""
        options = self.options
        for name in chunks:
            self.service.forget(name)
            place = batch.lanes[name].place
            self.service.session(name).rewind(place.position, place.epoch)
        flat = len(self.model.inputs) == 1
        rows = {name: [item.row[0] if flat else item.row for item in chunk] for name, chunk in chunks.items()}
        try:
            # With its name: a session of another model would be fed by the names of this one's inputs.
            answers = self.service.advance(rows, self.model.name, level=options.level, score=options.score)
        except carryover.Unreachable:
            self._doubt(batch, chunks)
            raise
        later = {name: error for name, error in answers.errors.items() if isinstance(error, LATER)}
        self._doubt(batch, later)
        if len(later) == len(chunks):
            raise next(iter(later.values()))
        return answers

    def _doubt(self, batch: _Batch, names: Iterable[str]) -> None:
        for name in names:
            batch.lanes[name].certain = False
            self._uncertain.add(name)

    def _settle(self, batch: _Batch, lane: Lane, chunk: list[Item], answers: carryover.BulkAnswer) -> None:
        """Take one session's answer or refusal."""
        error = answers.errors.get(lane.session)
        if error is None:
            self._applied(batch, lane, chunk, answers[lane.session])
        elif isinstance(error, LATER):
            pass  # stays in the lane
        elif isinstance(error, ABSENT):
            lane.begin_anew()
        elif isinstance(error, carryover.OutOfStep):
            reason = lane.resolve(error)
            if reason is not None:
                self._give_up(batch, lane.take(len(lane.items)), reason)
        elif isinstance(error, REFUSED):
            if len(chunk) > 1:
                lane.single = len(chunk)
            else:
                self._give_up(batch, lane.take(1), str(error))
        else:
            raise error

    def _applied(self, batch: _Batch, lane: Lane, chunk: list[Item], answer: Answer) -> None:
        lane.take(len(chunk))
        lane.advance(Place(answer.position, answer.epoch))
        self.counts.replayed += len(chunk) if answer.replayed else 0
        self.counts.applied += len(chunk)
        outcome = batch.outcome
        outcome.places[lane.session] = lane.place
        for item, prediction in zip(chunk, answer, strict=True):
            outcome.messages.append(item.message)
            self._publish(item, prediction, outcome)

    def _publish(self, item: Item, prediction: Prediction, outcome: Outcome) -> None:
        options, score = self.options, prediction.score
        alarm = options.alarm_above is not None and score is not None and score > options.alarm_above
        self.counts.alarms += alarm
        document = self._document(item, prediction)
        if options.alarm_above is not None:
            document["alarm"] = alarm
        outcome.publications += [Publication(target, document) for target in self._targets(item, alarm)]
        if alarm:
            log.warning("%s: alarm, surprise %.4g at %d", item.session, score, prediction.position)

    def _targets(self, item: Item, alarm: bool) -> list[str]:
        """Where the prediction of a message goes.

        Raises
        ------
        BadMessage : the message has not what a template needs
        """
        names = dict(item.message.names) | {"session": item.session}
        templates = [self.options.publish, self.options.alarms if alarm else None]
        return [template.fill(names) for template in templates if template is not None]

    def _document(self, item: Item, prediction: Prediction) -> dict[str, Any]:
        document: dict[str, Any] = {
            "session": item.session,
            "source": item.message.origin,
            "position": prediction.position,
            "prediction": self._by_target(prediction.value),
        }
        parts = {"lower": prediction.lower, "upper": prediction.upper, "residual": prediction.residual}
        document |= {name: self._by_target(part) for name, part in parts.items() if part is not None}
        if prediction.score is not None:
            document["score"] = prediction.score
        return document

    def _by_target(self, value: Any) -> Any:
        """A number of a model with one target; else a dictionary by target."""
        if not isinstance(value, list):
            return value
        return value[0] if len(value) == 1 else dict(zip(self.model.targets, value, strict=True))

    def _give_up(self, batch: _Batch, items: Iterable[Item], reason: str) -> None:
        for item in items:
            batch.outcome.places[item.session] = batch.lanes[item.session].place
            self._reject(item.message, reason, batch.outcome)

    def _reject(self, message: Message, reason: str, outcome: Outcome) -> None:
        """Count a message, log it, and put it into the dead letters."""
        self.counts.rejected += 1
        log.warning("%s: rejected, %s", message.origin, reason)
        outcome.messages.append(message)
        target = self.options.dead_letter
        if target is None:
            return
        payload = message.payload
        shown = payload.decode("utf-8", "backslashreplace") if isinstance(payload, bytes) else dict(payload)
        try:
            name = target.fill(message.names)
        except BadMessage:
            name = target.text
        outcome.publications.append(
            Publication(name, {"source": message.origin, "reason": reason, "payload": shown})
        )

    def _commit(self, batch: _Batch) -> None:
        outcome, batch.outcome = batch.outcome, Outcome()
        if outcome.messages:
            self.source.commit(outcome)

    def _await(self, action: Any) -> Any:
        """Repeat a request until the server answers it."""
        return retry(action, (carryover.Unreachable, LATER), self.service.url, self.stop)

    def _report(self) -> None:
        now, (then, received) = time.monotonic(), self._reported
        if now - then < self.options.report_seconds:
            return
        self._reported = now, self.counts.received
        lag, counts = self.source.lag(), self.counts
        log.info(
            "%.0f messages/s; received %d, applied %d (replayed %d), rejected %d, alarms %d; waiting %s",
            (counts.received - received) / (now - then),
            counts.received,
            counts.applied,
            counts.replayed,
            counts.rejected,
            counts.alarms,
            "unknown" if lag is None else lag,
        )


def check_model(models: Sequence[ModelInfo], name: str | None) -> ModelInfo:
    """Return the model that the bridge feeds.

    Raises
    ------
    ConnectorError : there is none of this name, or it needs what messages do not hold
    """
    found = [model for model in models if (model.default if name is None else model.name == name)]
    if not found:
        raise ConnectorError(
            f"the server has no model {name!r}; it has {', '.join(model.name for model in models)}"
        )
    if found[0].more.get("time_features"):
        raise ConnectorError(f"model {found[0].name} has time features, and a bridge sends no timestamps")
    return found[0]


def check_templates(options: Options, names: frozenset[str] | None) -> None:
    """Check the templates before the first message is taken: each message would be rejected for them.

    Parameters
    ----------
    names : what they may use; None: it is up to the message

    Raises
    ------
    ConfigError : a template has another name
    """
    if names is None:
        return
    behind = names | {"session"}
    for option, template, known in (
        ("--session", options.session, names),
        ("--publish", options.publish, behind),
        ("--alarms", options.alarms, behind),
        ("--dead-letter", options.dead_letter, names),
    ):
        unknown = sorted(template.names - known) if template is not None else []
        if unknown:
            listed = ", ".join(f"{{{name}}}" for name in sorted(known))
            raise ConfigError(f"{option}: there is no {{{unknown[0]}}} here; this address has {listed}")
