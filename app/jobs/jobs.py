"""The jobs of the engine: one class for each kind of request.

A job names its sessions. It is answered exactly once, by a call of its `reply` with an answer or an error.
Jobs know nothing of HTTP; the protocols make them from requests.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np

from app.errors import CarryoverError
from app.jobs.answers import BulkAnswer, ChunkAnswer, SessionHistory, SessionView
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from app.jobs.text import Draft, TextAnswer, TextRequest
from app.session.notes import Alert, Labels
from app.session.rows import Answer
from app.session.state_file import SessionState
from models.adaptation.learner import Scores
from models.arrays import Epochs, Floats, Ints, Numbers
from models.forecaster import Forecaster

Reply = Callable[[Any], None]
LONG_CHUNK = 64  # observations; a longer chunk would hold up the others of its batch


class UsageCounter(Protocol):
    """Counts the jobs of a caller in flight.

    It gets many answers in one call: a call for each costs more.
    """

    tenant: str

    def release(self, count: int) -> None:
        """Count jobs that were answered."""


class Client:
    """A connection that waits for the answers of jobs. `left` is set once it is closed."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = False


Event = dict[str, Any]
"""What happened to a session. `event` is chunk, created, reset, imported, gone, alert or clear."""


class Watcher(Protocol):
    """Watches a session."""

    def notify(self, event: Event) -> None:
        """Take an event. Must be quick, because it is called within a tick."""

    def end(self) -> None:
        """No event will come any more: the worker that has the session has stopped."""


class _Nobody:
    """In place of a watcher that is connected to another process."""

    def notify(self, event: Event) -> None:
        """Nobody is notified."""

    def end(self) -> None:
        """Nobody is notified."""


NOBODY: Watcher = _Nobody()


class SeparateReplies(ABC):
    """The reply of a job of many chunks whose answers need not leave together."""

    @abstractmethod
    def __call__(self, outcome: Any) -> None:
        """Answer every chunk."""

    @abstractmethod
    def subset_reply(self, indexes: Ints) -> Reply:
        """The reply of a job for the chunks at these indexes."""

    def join(self, others: Sequence[Any]) -> SeparateReplies | None:  # noqa: ARG002  (for those that can)
        """The reply of a job for these chunks and, behind them, those of the others; None if there is none.

        Parameters
        ----------
        others : of the same class
        """
        return None


class ChunkSource(Protocol):
    """Chunks that have come in, and become jobs when the engine collects its next batch."""

    def __len__(self) -> int:
        """How many have come in."""

    def submit(self) -> None:
        """Submit them all."""


def is_cancelled(job: Any) -> bool:
    """Whether nobody waits for this job's answer any more, so that it need not be begun."""
    client: Client | None = getattr(job, "client", None)
    return client is not None and client.left


def discard_answer(_: Any) -> None:
    """The reply of a job that nobody waits for."""


class _OneSession:
    """A job of one session."""

    __slots__ = ()
    session: str

    @property
    def sessions(self) -> Sequence[str]:
        return (self.session,)

    @property
    def nbytes(self) -> int:
        """Bytes of observations that wait with the job."""
        return 0


@dataclass(slots=True)
class Progress:
    """How far a chunk or a forecast is that takes several batches. Nothing of it is published yet.

    carry : [carry_size], after `offset` observations
    digest : of the whole chunk
    predictions, extra_outputs, scores : of each slice of the chunk
    forecast_carry : [carry_size], after `forecast_steps`; None while the chunk is not finished
    forecast : of each slice
    future_inputs : [horizon, inputs known ahead], if the model has such inputs
    """

    carry: Floats
    digest: int = 0
    offset: int = 0
    predictions: list[Numbers] = field(default_factory=list)
    extra_outputs: list[Answer] = field(default_factory=list)
    scores: list[Scores | None] = field(default_factory=list)
    forecast_carry: Floats | None = None
    forecast: list[Numbers] = field(default_factory=list)
    forecast_steps: int = 0
    future_inputs: Floats | None = None


class Advance(msgspec.Struct, eq=False):
    """Advance one session by a chunk. Answered by `ChunkAnswer`. A `Struct`: it takes half as long to make.

    Chunks that are not unusual wait alone, and are joined to an `AdvanceMany` when a batch is collected.

    observations : [steps, inputs], finite; of width 0 where all are missing or `options` has them by name
    at : the position that the client believes the session to be at
    epoch : the epoch that the client believes the session to have
    horizon : steps of forecast to add
    create : whether a session that does not exist is created, unless `at` or `epoch` says that it exists
    reset : whether the carry is zeroed first, in the same commit
    delete : whether the session is removed afterwards, in the same commit
    options : what the chunk asks for, or brings along, beside its numbers
    usage : counts the job as in flight until it is answered
    client : waits for the answer; None where that is not known
    raw_observations, digest, clock : of a chunk with options, set once its session is known: its numbers as
        the client sent them; their digest; the time of its last row, seconds since 1970
    """

    session: str
    observations: Numbers
    at: int | None = None
    epoch: int | None = None
    horizon: int = 0
    model: str | None = None
    reply: Reply = discard_answer
    progress: Progress | None = None
    create: bool = True
    reset: bool = False
    delete: bool = False
    options: ChunkOptions | None = None
    usage: UsageCounter | None = None
    client: Client | None = None
    raw_observations: Numbers | None = None
    digest: int | None = None
    clock: float | None = None

    @property
    def sessions(self) -> Sequence[str]:
        return (self.session,)

    @property
    def nbytes(self) -> int:
        return self.observations.nbytes + (0 if self.options is None else self.options.nbytes)

    def is_unusual(self, max_whole: int) -> bool:
        """Whether the chunk is a job of its own in its batch: it is more than its numbers, or long."""
        return (
            self.horizon > 0
            or self.options is not None
            or self.reset
            or self.delete
            or self.progress is not None
            or len(self.observations) > max_whole
        )

    def is_in_step(self, header: Any) -> bool:
        """Whether the session with this header is where the client believes it to be."""
        return self.at in (None, header["position"]) and self.epoch in (None, header["epoch"])


@dataclass(slots=True, eq=False)
class AdvanceMany:
    """Advance many sessions, each by a chunk. Answered by `BulkAnswer`.

    sessions : n ids; a session that is named twice is advanced in the order of the request
    observations : [total, inputs], finite, one chunk after the other; of width 0 where `options` has them by
        name
    lengths : [n], each at least 1, `total` together
    at, epochs : [n], as in `Advance`; -1 and 0 where the client claims nothing, None where it claims
        nothing at all
    create : whether sessions that do not exist are created, unless `at` or `epochs` say that they exist
    options : of every chunk; with options, each chunk goes as a job of its own
    reply : `SeparateReplies`, or called once, when every chunk is answered
    usage : counts the chunks as in flight until they are answered
    requests : that wait for the answer
    """

    sessions: SessionList
    observations: Numbers
    lengths: Ints
    at: Ints | None = None
    epochs: Epochs | None = None
    model: str | None = None
    reply: Reply = discard_answer
    options: ChunkOptions | None = None
    client: Client | None = None
    usage: UsageCounter | None = None
    requests: int = 1
    create: bool = True

    def __len__(self) -> int:
        return len(self.sessions)

    @property
    def nbytes(self) -> int:
        """Bytes of observations that wait with the job."""
        return self.observations.nbytes + (0 if self.options is None else self.options.nbytes)

    @property
    def claimed_positions(self) -> Ints:
        """[n], `at`; -1 for all where the client claims nothing."""
        return np.full(len(self.sessions), -1) if self.at is None else self.at

    @property
    def claimed_epochs(self) -> Epochs:
        """[n], `epochs`; 0 for all where the client claims nothing."""
        return np.zeros(len(self.sessions), np.uint64) if self.epochs is None else self.epochs


@dataclass(slots=True)
class Forecast(_OneSession):
    """Forecast from a copy of the carry. Answered by `ChunkAnswer` without predictions; the session stays.

    level : of the interval that is answered beside it
    future : [steps, inputs known ahead], own units
    levels : of the intervals whose ends are answered as quantiles
    """

    session: str
    steps: int
    level: float | None = None
    future: Numbers | None = None
    levels: Sequence[float] = ()
    reply: Reply = discard_answer
    progress: Progress | None = None
    client: Client | None = None


@dataclass(slots=True)
class Write(_OneSession):
    """Write a text, or go on with it, by as many tokens as fit one batch. Answered by `TextAnswer`.

    at : the position at which the text begins, before its prompt; None begins a text where the session is
    behind : in place of `at`, a position up to which the text is known, to find where it began
    keep : whether the session consumes the text; otherwise it is written on a copy. A copy of a session that
        does not exist is a new one
    draft : of the answer before, if the text is on a copy
    goes_on : whether a job was submitted for this text before
    """

    session: str
    request: TextRequest
    at: int | None = None
    epoch: int | None = None
    model: str | None = None
    behind: int | None = None
    keep: bool = True
    create: bool = True
    draft: Draft | None = None
    goes_on: bool = False
    reply: Reply = discard_answer
    client: Client | None = None


@dataclass(slots=True)
class Create(_OneSession):
    """Create a session. Answered by `SessionView`.

    learning : how it learns, as arguments of `Learning.with_options`
    level : of the intervals that it wants with every chunk
    labels : `name:value` of each
    alert : of its own
    series : of the model's training, whose scale the session has; None: that of the session's own id
    """

    session: str
    model: str | None = None
    ttl_seconds: float | None = None
    learning: Mapping[str, Any] = field(default_factory=dict)
    level: float | None = None
    labels: Labels = ()
    alert: Alert | None = None
    series: str | None = None
    reply: Reply = discard_answer


@dataclass(slots=True)
class Annotate(_OneSession):
    """Change what is noted on a session. It does not move, and its time to live goes on.

    Answered by `SessionView`.

    labels : by name, the values to set; None removes a label
    replaces_labels : whether all other labels are removed
    alert : the session's own, or none, where `changes_alert`; an alert that is raised is forgotten
    """

    session: str
    labels: Mapping[str, str | None] = field(default_factory=dict)
    replaces_labels: bool = False
    alert: Alert | None = None
    changes_alert: bool = False
    at: int | None = None
    epoch: int | None = None
    reply: Reply = discard_answer


@dataclass(slots=True)
class Inspect(_OneSession):
    """Show a session. Answered by `SessionView`."""

    session: str
    reply: Reply = discard_answer


@dataclass(slots=True)
class ReadHistory(_OneSession):
    """Show what a session observed last. Answered by `SessionHistory`.

    first : leave out what was observed before this position
    limit : most observations: the first of them, or without `first` the last
    """

    session: str
    first: int | None = None
    limit: int | None = None
    reply: Reply = discard_answer


@dataclass(slots=True)
class Watch(_OneSession):
    """Show a session, and notify the watcher of its events from then on, whether it exists yet or not.

    Answered by `SessionHistory`, before the first event.
    """

    session: str
    watcher: Watcher = field(default_factory=lambda: NOBODY)
    reply: Reply = discard_answer


@dataclass(slots=True)
class Reset(_OneSession):
    """Zero the carry and leave the position. Answered by `SessionView`."""

    session: str
    at: int | None = None
    epoch: int | None = None
    reply: Reply = discard_answer


@dataclass(slots=True)
class Fork(_OneSession):
    """Create a session `target` with a copy of the carry. Answered by the `SessionView` of the target."""

    session: str
    target: str
    at: int | None = None
    epoch: int | None = None
    reply: Reply = discard_answer

    @property
    def sessions(self) -> Sequence[str]:
        return (self.session, self.target)


@dataclass(slots=True)
class Delete(_OneSession):
    """Remove a session, leaving a tombstone. Answered by None."""

    session: str
    at: int | None = None
    epoch: int | None = None
    reply: Reply = discard_answer


@dataclass(slots=True)
class Export(_OneSession):
    """Export everything that a session remembers. Answered by `SessionState`.

    at, epoch : that the session must have
    """

    session: str
    at: int | None = None
    epoch: int | None = None
    reply: Reply = discard_answer
    client: Client | None = None


@dataclass(slots=True)
class Import(_OneSession):
    """Put a session in an exported state, with a new epoch. Answered by `SessionView`.

    at, epoch : that the session to be replaced must have, if any
    only_new : refuse to replace a session
    """

    session: str
    state: SessionState
    at: int | None = None
    epoch: int | None = None
    only_new: bool = False
    reply: Reply = discard_answer


@dataclass(slots=True)
class Adopt:
    """Give new sessions of this model's name this network.

    Answered by whether it differs from the one before.
    """

    forecaster: Forecaster
    reply: Reply = discard_answer
    sessions: Sequence[str] = ()
    nbytes: int = 0


@dataclass(slots=True)
class Retire:
    """Give no new session a network of this name; existing sessions keep theirs. Answered by None."""

    model: str
    reply: Reply = discard_answer
    sessions: Sequence[str] = ()
    nbytes: int = 0


@dataclass(slots=True)
class Refuse(_OneSession):
    """Answer with this error behind the session's earlier jobs: refusals keep the order of a stream too."""

    session: str
    error: CarryoverError
    reply: Reply = discard_answer


@dataclass(slots=True)
class Expire:
    """Remove those of these sessions that have expired. Submitted by the engine itself; answered by None."""

    sessions: Sequence[str]
    reply: Reply = discard_answer
    nbytes = 0


Job = (
    Advance
    | AdvanceMany
    | Forecast
    | Write
    | Create
    | Annotate
    | Inspect
    | ReadHistory
    | Watch
    | Reset
    | Fork
    | Delete
    | Export
    | Import
    | Adopt
    | Retire
    | Refuse
    | Expire
)


Outcome = (
    ChunkAnswer
    | BulkAnswer
    | TextAnswer
    | SessionView
    | SessionHistory
    | SessionState
    | bool
    | CarryoverError
    | None
)


class JobReceiver(Protocol):
    """Takes jobs: the engine, or a caller's view of it."""

    def submit(self, job: Job) -> None:
        """Queue a job; its `reply` is called exactly once."""


async def submit_and_wait(submit: Callable[[Job], None], job: Job) -> Any:
    """Submit a job and wait for its answer.

    Raises
    ------
    CarryoverError : the job was refused
    """
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    job.reply = lambda outcome: None if answered.done() else answered.set_result(outcome)
    submit(job)
    outcome = await answered
    if isinstance(outcome, CarryoverError):
        raise outcome
    return outcome
