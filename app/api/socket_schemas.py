"""The messages of the sockets, as the AsyncAPI document shows them.

A message has the fields of the HTTP call that does the same, and those that only a socket needs.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.schemas import Chunk, Precondition, Predictions, Problem, Session, SessionId

NAMED = "Required on `/stream`; on `/sessions/{id}/stream` the path names the session."
TAG = "Any JSON value. The answer has the same."


class ChunkMessage(Chunk):
    """One or more consecutive observations of a session."""

    session: SessionId | None = Field(None, description=NAMED)
    tag: Any = Field(None, description=TAG)
    reset: Literal[False] = False


class ResetMessage(Precondition):
    """Sets the carry to zero, behind the chunks before this message and before those after it."""

    session: SessionId | None = Field(None, description=NAMED)
    tag: Any = Field(None, description=TAG)
    reset: Literal[True]


class Hello(BaseModel):
    """The first message of a stream: how much the client may send again after a broken connection."""

    in_flight: int = Field(description="Messages that may wait for an answer before the server reads on.")
    recent_chunks: int = Field(description="Chunks of a session whose answers can be replayed.")
    recent_bytes: int = Field(description="Bytes that these answers have at most.")


class SessionHello(Hello):
    """The same on the socket of one session: where the session is."""

    session: str
    position: int | None = Field(description="Null where the session does not exist.")
    epoch: str | None


class ChunkAnswer(Predictions):
    """The answer to a chunk."""

    tag: Any = Field(None, description=TAG)


class ResetAnswer(Session):
    """The answer to a reset: the session."""

    tag: Any = Field(None, description=TAG)


class SocketProblem(Problem):
    """Why a message was refused (RFC 9457)."""

    session: str | None = Field(None, description="Absent if the message could not be read.")
    tag: Any = Field(None, description=TAG)


class WatchHello(BaseModel):
    """The first message of a watch: where the session is, all null where it does not exist."""

    watching: str
    model: str | None
    position: int | None
    epoch: str | None
    history: dict[str, Any] | None = Field(
        None, description="What the session observed last, as `GET /sessions/{id}/history` has it."
    )


class ChunkEvent(BaseModel):
    """A chunk was applied. It has the fields of its answer, too; rows are never flat."""

    event: Literal["chunk"]
    position: int
    epoch: str
    reset: bool = Field(description="Whether the session was reset before the chunk.")
    observations: list[list[float | None]]
    predictions: list[list[float]]


class TextEvent(BaseModel):
    """A part of a text was written. The session has observed it."""

    event: Literal["text"]
    position: int
    epoch: str
    prompt: int = Field(description="So many of the tokens are of the prompt; the rest was written.")
    observations: list[list[int]] = Field(description="The tokens.")
    pieces: list[str] = Field(description="The text of each token.")
    finish: Literal["length", "stop"] | None = Field(
        description="Why the text is complete; null: it goes on."
    )


class SessionEvent(BaseModel):
    """The session was created, reset or imported."""

    event: Literal["created", "reset", "imported"]
    position: int
    epoch: str


class GoneEvent(BaseModel):
    """The session expired or was deleted."""

    event: Literal["gone"]
    position: int
    why: str


class AlertEvent(BaseModel):
    """An alert of the session was raised, or cleared."""

    event: Literal["alert", "clear"]
    id: str
    session: str
    model: str
    position: int
    epoch: str
    time: str
    score: float | None = Field(
        description="The surprise of the observation. Of an alert by `alarms_per_week` that was raised, a "
        "number that ranks alarms."
    )
    kind: str | None = Field(
        None, description="Of an alert by `alarms_per_week`: value, level shift or trend."
    )
    cause: str | None = Field(None, description="Of an alert that was raised, in words.")
    labels: dict[str, str]


class Events(BaseModel):
    """What happened to the watched session, in order."""

    events: list[ChunkEvent | TextEvent | SessionEvent | GoneEvent | AlertEvent]
    missed: int | None = Field(
        None,
        description="Observations of older events, which were dropped because the client read too slowly.",
    )
