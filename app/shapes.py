"""The bodies of the control routes, and every answer, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

At = Annotated[
    int | None,
    Field(ge=0, le=2**63 - 1, description="The position you believe the session to be at; another is 409."),
]
Epoch = Annotated[
    str | None, Field(description="The epoch you were told; 409 when the session was made anew since.")
]
SessionId = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9._:\-]{1,128}$", description="1 to 128 characters of `A-Z a-z 0-9 . _ : -`."),
]
Numbers = list[list[float]] | list[float]


class Body(BaseModel):
    """A request body: a field that we do not know is refused by name, and no number is made of a text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class NewSession(Body):
    id: SessionId | None = Field(None, description="Drawn at random when absent.")
    model: str | None = Field(None, description="The default model when absent.")
    ttl_seconds: float | None = Field(
        None, gt=0, le=1e9, description="Idle for so long, it expires; the server's default when absent."
    )


class InStep(Body):
    at: At = None
    epoch: Epoch = None


class ForkInto(InStep):
    id: SessionId | None = Field(None, description="The new session's id; drawn at random when absent.")


class Chunk(Body):
    """One or more consecutive observations."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"observations": [[0.0], [0.1]], "at": 0}]}
    )
    observations: Numbers = Field(
        description="One row an observation, one number a feature, in the data's own units. A model with "
        "one feature also takes a flat list, and answers it flat.",
        min_length=1,
    )
    at: At = None
    epoch: Epoch = None
    horizon: int | None = Field(None, ge=0, description="Add a forecast of so many steps.")
    model: str | None = Field(None, description="The model of the session that this chunk creates.")


class Predictions(BaseModel):
    session: str
    model: str
    position: int = Field(description="Observations consumed since the session was created; never goes back.")
    epoch: str
    replayed: bool = Field(description="This chunk had been applied already; this is its stored answer.")
    predictions: Numbers = Field(description="`predictions[t]` is of what follows `observations[t]`.")
    forecast: Numbers | None = None


class ManyChunks(Body):
    """Chunks of many sessions, a column each."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"sessions": ["pump-7", "pump-8"], "observations": [[0.0], [0.1]]}]},
    )
    sessions: list[SessionId] = Field(
        description="One named twice is moved on in order, each chunk with its own answer.", min_length=1
    )
    observations: list[float | list[float] | list[list[float]]] = Field(
        description="For each session a number (one observation of a model with one input), a row (one "
        "observation) or a list of rows (a chunk); the predictions are answered just as deep."
    )
    at: list[int | None] | None = Field(None, description="The position you believe each session to be at.")
    epochs: list[str | None] | None = None
    model: str | None = Field(None, description="The model of the sessions that these chunks create.")


class Problem(BaseModel):
    """RFC 9457, the one shape of every error. Further members depend on the type: `position`, `row`, ..."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str


class ManyPredictions(BaseModel):
    """Columns in the order of the request; null where a chunk was refused."""

    positions: list[int | None]
    epochs: list[str | None]
    predictions: list[float | list[float] | list[list[float]] | None]
    replayed: list[int] = Field(description="Indexes of chunks that had been applied already.")
    errors: dict[str, Problem] = Field(description="By index, why a chunk was refused.")


class ForecastAnswer(BaseModel):
    session: str
    model: str
    position: int
    epoch: str
    forecast: Numbers


class Session(BaseModel):
    session: str
    model: str
    fingerprint: str
    position: int
    epoch: str
    observations_since_reset: int
    last_prediction: list[float] | None
    created: str
    updated: str
    expires: str | None
    ttl_seconds: float | None


class SessionName(BaseModel):
    session: str
    model: str


class SessionPage(BaseModel):
    sessions: list[SessionName]
    next: str | None = Field(description="Pass it as `after` for the next page; null on the last.")
    total: int = Field(description="Sessions of every model, resident or at rest.")


class Feature(BaseModel):
    name: str
    unit: str | None


class Model(BaseModel):
    name: str
    default: bool
    fingerprint: str
    inputs: list[Feature]
    targets: list[str]
    hidden_size: int
    num_layers: int
    predicts: str
    can_forecast: bool = Field(description="Whether the targets cover the inputs.")
    carry_bytes: int
    metrics: dict[str, Any]
    sessions_resident: int
    sessions_on_older: int = Field(description="Resident sessions that keep an older network until reset.")


class Reloaded(BaseModel):
    changed: bool = Field(description="Whether the artifact on disk is another network.")
    model: Model


class ModelList(BaseModel):
    models: list[Model]


class Health(BaseModel):
    status: str
    reasons: list[str] = []
