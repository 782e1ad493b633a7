"""The engine's vocabulary: what may be asked of it, and what it answers.

A job names its sessions, and is answered exactly once, by a call of its `reply` with an answer or an
error. Jobs know nothing of HTTP; `api/` makes them of requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from app.errors import CarryoverError
from app.jobs.answers import BulkAnswer, ChunkAnswer, SessionView
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from app.session.rows import Answer
from app.session.state_file import SessionState
from models.adaptation.learner import Scores
from models.arrays import Epochs, Floats, Ints
from models.forecaster import Forecaster

Reply = Callable[[Any], None]


class UsageCounter(Protocol):
    """What knows how many jobs are under way. Told of many at once: a wrapped reply a job would cost more."""

    tenant: str

    def release(self, count: int) -> None:
        """So many of its jobs were answered."""


class Client:
    """Whoever waits for the answers of some jobs: a connection. `left` is set once it is closed."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = False


def is_cancelled(job: Any) -> bool:
    """Whether nobody waits for this job's answer any more, so that it need not be begun."""
    client: Client | None = getattr(job, "client", None)
    return client is not None and client.left


def discard_answer(_: Any) -> None:
    """The reply of a job whose client has gone."""


class _OneSession:
    """A job that touches one session."""

    __slots__ = ()
    session: str

    @property
    def sessions(self) -> Sequence[str]:
        return (self.session,)

    @property
    def nbytes(self) -> int:
        """Of observations that wait with it."""
        return 0


@dataclass(slots=True)
class Progress:
    """A chunk too long for one wave, or one whose forecast still rolls. Nothing of it is published yet."""

    carry: Floats  # [carry_size], after `offset` observations
    digest: int = 0  # of the whole chunk
    offset: int = 0
    predictions: list[Floats] = field(default_factory=list)
    forecast_carry: Floats | None = None  # [carry_size], the copy that the forecast moves on
    forecast: list[Floats] = field(default_factory=list)
    forecast_steps: int = 0
    future_inputs: Floats | None = None  # [horizon, inputs known ahead], what the forecast is told
    extra_outputs: list[Answer] = field(
        default_factory=list
    )  # of each slice, what is told beside predictions
    scores: list[Scores | None] = field(default_factory=list)  # of each slice


class Advance(msgspec.Struct, eq=False):
    """Move one session on by a chunk. Answered by `ChunkAnswer`. A `Struct`: it costs half to make.

    observations : [steps, inputs] of finite float32
    at : the position the client believes the session to be at
    epoch : the incarnation the client believes it talks to
    horizon : steps of forecast to add
    create : a session that is not there is created, unless the client counts on it
    reset : the carry is zeroed first, in the same commit
    delete : the session is forgotten afterwards, in the same commit
    extras : what it asks for, or brings along, besides
    use : what counts it as under way, told once it is answered
    client : who waits for the answer; None where that is not known
    sent, digest, clock : of a chunk with extras, once it has met its session: its numbers as they came, of
        which `observations` are then made; their digest; the time of its last row
    """

    session: str
    observations: Floats
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
    raw_observations: Floats | None = None
    digest: int | None = None
    clock: float | None = None

    @property
    def sessions(self) -> Sequence[str]:
        return (self.session,)

    @property
    def nbytes(self) -> int:
        return self.observations.nbytes


@dataclass(slots=True, eq=False)
class AdvanceMany:
    """Move many sessions on, each by a chunk. Answered by `BulkAnswer`.

    sessions : n ids; one that is named twice is moved on in order
    observations : [total, inputs] of finite float32, the chunks laid one after the other
    lengths : [n], each at least 1, `total` together
    at, epochs : [n] as in `Advance`; -1 and 0 where the client claims nothing, None where it never does
    extras : of every chunk; with some, each goes as a job of its own
    """

    sessions: SessionList
    observations: Floats
    lengths: Ints
    at: Ints | None = None
    epochs: Epochs | None = None
    model: str | None = None
    reply: Reply = discard_answer
    options: ChunkOptions | None = None
    client: Client | None = None

    def __len__(self) -> int:
        return len(self.sessions)

    @property
    def nbytes(self) -> int:
        """Of observations that wait with it."""
        return self.observations.nbytes


@dataclass(slots=True)
class Forecast(_OneSession):
    """Roll out on a copy. Answered by `ChunkAnswer` with no predictions; nothing moves.

    level : of the intervals told beside it
    future : [steps, inputs known ahead], own units
    """

    session: str
    steps: int
    level: float | None = None
    future: Floats | None = None
    reply: Reply = discard_answer
    progress: Progress | None = None
    client: Client | None = None


@dataclass(slots=True)
class Create(_OneSession):
    """A new session. Answered by `SessionView`.

    learning : what it chooses of how it learns, by the arguments of `Learning.with_options`
    level : of the intervals that it wants with every chunk
    """

    session: str
    model: str | None = None
    ttl_seconds: float | None = None
    learning: Mapping[str, Any] = field(default_factory=dict)
    level: float | None = None
    reply: Reply = discard_answer


@dataclass(slots=True)
class Inspect(_OneSession):
    """What a session looks like. Answered by `SessionView`."""

    session: str
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
    """A new session `target` with a copy of the carry. Answered by the new one's `SessionView`."""

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
    """Forget a session, leaving a tombstone. Answered by None."""

    session: str
    at: int | None = None
    epoch: int | None = None
    reply: Reply = discard_answer


@dataclass(slots=True)
class Export(_OneSession):
    """All that a session remembers. Answered by `SessionState`."""

    session: str
    reply: Reply = discard_answer
    client: Client | None = None


@dataclass(slots=True)
class Import(_OneSession):
    """Put a session in the state that was exported, as a new incarnation. Answered by `SessionView`.

    at, epoch : of the session that it replaces, if the client minds
    """

    session: str
    state: SessionState
    at: int | None = None
    epoch: int | None = None
    reply: Reply = discard_answer


@dataclass(slots=True)
class Adopt:
    """From here on new sessions of this name get this network. Answered by whether it was another one."""

    forecaster: Forecaster
    reply: Reply = discard_answer
    sessions: Sequence[str] = ()
    nbytes: int = 0


@dataclass(slots=True)
class Retire:
    """From here on no new session gets a network of this name; those under way keep theirs until they end.

    Answered by None.
    """

    model: str
    reply: Reply = discard_answer
    sessions: Sequence[str] = ()
    nbytes: int = 0


@dataclass(slots=True)
class Refuse(_OneSession):
    """Answer with this error when the session's turn comes: refusals, too, keep the order of a stream."""

    session: str
    error: CarryoverError
    reply: Reply = discard_answer


@dataclass(slots=True)
class Expire:
    """Bury those of these sessions whose time has come. Asked by the engine itself; answered by None."""

    sessions: Sequence[str]
    reply: Reply = discard_answer
    nbytes = 0


Job = (
    Advance
    | AdvanceMany
    | Forecast
    | Create
    | Inspect
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


Outcome = ChunkAnswer | BulkAnswer | SessionView | SessionState | bool | CarryoverError | None


class JobReceiver(Protocol):
    """What takes jobs: the engine, or the engine as one caller sees it."""

    def submit(self, job: Job) -> None:
        """Queue a job; its `reply` is called exactly once."""


async def submit_and_wait(submit: Callable[[Job], None], job: Job) -> Any:
    """Hand a job over and wait for its answer.

    Raises
    ------
    CarryoverError : what the job was refused with
    """
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    job.reply = lambda outcome: None if answered.done() else answered.set_result(outcome)
    submit(job)
    outcome = await answered
    if isinstance(outcome, CarryoverError):
        raise outcome
    return outcome
