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

from app.engine.fair_share import Lane
from app.errors import CarryoverError
from app.jobs.answers import Advanced, AdvancedMany, SessionView
from app.jobs.options import Extras
from app.jobs.session_list import Roster
from app.session.rows import Answer, Epochs, Floats, Ints
from app.session.state_file import SessionState
from models.adaptation.learner import Judged
from models.forecaster import Forecaster

Reply = Callable[[Any], None]


class Counts(Protocol):
    """What knows how many jobs are under way. Told of many at once: a wrapped reply a job would cost more."""

    lane: Lane

    def answered(self, count: int) -> None:
        """So many of its jobs were answered."""


def unheard(_: Any) -> None:
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

    carry: Floats  # [carry_size], after `done` observations
    digest: int = 0  # of the whole chunk
    done: int = 0
    predictions: list[Floats] = field(default_factory=list)
    rolling: Floats | None = None  # [carry_size], the copy that the forecast moves on
    forecast: list[Floats] = field(default_factory=list)
    rolled: int = 0
    ahead: Floats | None = None  # [horizon, inputs known ahead], what the forecast is told
    findings: list[Answer] = field(default_factory=list)  # of each slice, what is told beside predictions
    judged: list[Judged | None] = field(default_factory=list)  # of each slice


class Advance(msgspec.Struct, eq=False):
    """Move one session on by a chunk. Answered by `Advanced`. A `Struct`: it costs half to make.

    observations : [steps, inputs] of finite float32
    at : the position the client believes the session to be at
    epoch : the incarnation the client believes it talks to
    horizon : steps of forecast to add
    create : a session that is not there is created, unless the client counts on it
    reset : the carry is zeroed first, in the same commit
    delete : the session is forgotten afterwards, in the same commit
    extras : what it asks for, or brings along, besides
    use : what counts it as under way, told once it is answered
    sent, digest, clock : of a chunk with extras, once it has met its session: its numbers as they came, of
        which `observations` are then made; their digest; the time of its last row
    """

    session: str
    observations: Floats
    at: int | None = None
    epoch: int | None = None
    horizon: int = 0
    model: str | None = None
    reply: Reply = unheard
    progress: Progress | None = None
    create: bool = True
    reset: bool = False
    delete: bool = False
    extras: Extras | None = None
    use: Counts | None = None
    sent: Floats | None = None
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
    """Move many sessions on, each by a chunk. Answered by `AdvancedMany`.

    sessions : n ids; one that is named twice is moved on in order
    observations : [total, inputs] of finite float32, the chunks laid one after the other
    lengths : [n], each at least 1, `total` together
    at, epochs : [n] as in `Advance`; -1 and 0 where the client claims nothing, None where it never does
    extras : of every chunk; with some, each goes as a job of its own
    """

    sessions: Roster
    observations: Floats
    lengths: Ints
    at: Ints | None = None
    epochs: Epochs | None = None
    model: str | None = None
    reply: Reply = unheard
    extras: Extras | None = None

    def __len__(self) -> int:
        return len(self.sessions)

    @property
    def nbytes(self) -> int:
        """Of observations that wait with it."""
        return self.observations.nbytes


@dataclass(slots=True)
class Forecast(_OneSession):
    """Roll out on a copy. Answered by `Advanced` with no predictions; nothing moves.

    level : of the intervals told beside it
    future : [steps, inputs known ahead], own units
    """

    session: str
    steps: int
    level: float | None = None
    future: Floats | None = None
    reply: Reply = unheard
    progress: Progress | None = None


@dataclass(slots=True)
class Create(_OneSession):
    """A new session. Answered by `SessionView`.

    learning : what it chooses of how it learns, by the arguments of `Learning.chosen`
    level : of the intervals that it wants with every chunk
    """

    session: str
    model: str | None = None
    ttl_seconds: float | None = None
    learning: Mapping[str, Any] = field(default_factory=dict)
    level: float | None = None
    reply: Reply = unheard


@dataclass(slots=True)
class Inspect(_OneSession):
    """What a session looks like. Answered by `SessionView`."""

    session: str
    reply: Reply = unheard


@dataclass(slots=True)
class Reset(_OneSession):
    """Zero the carry and leave the position. Answered by `SessionView`."""

    session: str
    at: int | None = None
    epoch: int | None = None
    reply: Reply = unheard


@dataclass(slots=True)
class Fork(_OneSession):
    """A new session `into` with a copy of the carry. Answered by the new one's `SessionView`."""

    session: str
    into: str
    at: int | None = None
    epoch: int | None = None
    reply: Reply = unheard

    @property
    def sessions(self) -> Sequence[str]:
        return (self.session, self.into)


@dataclass(slots=True)
class Delete(_OneSession):
    """Forget a session, leaving a tombstone. Answered by None."""

    session: str
    at: int | None = None
    epoch: int | None = None
    reply: Reply = unheard


@dataclass(slots=True)
class Export(_OneSession):
    """All that a session remembers. Answered by `SessionState`."""

    session: str
    reply: Reply = unheard


@dataclass(slots=True)
class Import(_OneSession):
    """Put a session in the state that was exported, as a new incarnation. Answered by `SessionView`.

    at, epoch : of the session that it replaces, if the client minds
    """

    session: str
    state: SessionState
    at: int | None = None
    epoch: int | None = None
    reply: Reply = unheard


@dataclass(slots=True)
class Adopt:
    """From here on new sessions of this name get this network. Answered by whether it was another one."""

    forecaster: Forecaster
    reply: Reply = unheard
    sessions: Sequence[str] = ()
    nbytes: int = 0


@dataclass(slots=True)
class Retire:
    """From here on no new session gets a network of this name; those under way keep theirs until they end.

    Answered by None.
    """

    model: str
    reply: Reply = unheard
    sessions: Sequence[str] = ()
    nbytes: int = 0


@dataclass(slots=True)
class Refuse(_OneSession):
    """Answer with this error when the session's turn comes: refusals, too, keep the order of a stream."""

    session: str
    error: CarryoverError
    reply: Reply = unheard


@dataclass(slots=True)
class Expire:
    """Bury those of these sessions whose time has come. Asked by the engine itself; answered by None."""

    sessions: Sequence[str]
    reply: Reply = unheard
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


Outcome = Advanced | AdvancedMany | SessionView | SessionState | bool | CarryoverError | None


class Submits(Protocol):
    """What takes jobs: the engine, or the engine as one caller sees it."""

    def submit(self, job: Job) -> None:
        """Queue a job; its `reply` is called exactly once."""


async def answer_to(submit: Callable[[Job], None], job: Job) -> Any:
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
