"""The bodies of the control routes, and every answer, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
Gapped = list[list[float | None]] | list[float | None]
Level = Annotated[
    float | None,
    Field(gt=0, lt=1, description="Add prediction intervals of this level, one that the session keeps."),
]
Future = Annotated[
    list[list[float]] | list[float] | None,
    Field(description="For a forecast, a row a step of the inputs that are known ahead, in their order."),
]


class Body(BaseModel):
    """A request body: a field that we do not know is refused by name, and no number is made of a text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class HowToLearn(Body):
    """What a session chooses of how it learns; whatever is absent is as the model's artifact says."""

    readout: Literal["off", "gain", "rls"] | None = Field(
        None, description="How its predictions are corrected by its own errors."
    )
    forgetting: float | None = Field(
        None, gt=0.5, le=0.9999, description="Weight an observation keeps at the next."
    )
    prior: float | None = Field(None, ge=1e-6, le=1e6, description="Pull towards the trained readout.")
    intervals: bool | None = Field(None, description="Whether it keeps intervals, scores and its errors.")


class NewSession(Body):
    id: SessionId | None = Field(None, description="Drawn at random when absent.")
    model: str | None = Field(None, description="The default model when absent.")
    ttl_seconds: float | None = Field(
        None, gt=0, le=1e9, description="Idle for so long, it expires; the server's default when absent."
    )
    learning: HowToLearn | None = None
    level: Level = Field(None, description="Answer every chunk with prediction intervals of this level.")


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
    observations: Gapped | None = Field(
        None,
        description="One row an observation, one number a feature, in the data's own units; null where it "
        "was not observed. A model with one feature also takes a flat list, and answers it flat.",
        min_length=1,
    )
    skip: int | None = Field(None, ge=1, description="In place of observations: so many are missing whole.")
    timestamps: list[float | str] | None = Field(
        None,
        description="For a model with time features, the time of each row: RFC 3339, or seconds since 1970. "
        "The columns made from them are then not among the observations.",
    )
    level: Level = None
    score: bool = Field(False, description="Add the error of each prediction made before, and its score.")
    future: Future = None
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
    lower: Numbers | None = None
    upper: Numbers | None = None
    residuals: Gapped | None = Field(None, description="Observed minus what had been predicted for it.")
    scores: list[float | None] | None = Field(
        None, description="How surprising each observation was: 1 minus the share of its like or larger."
    )
    observed: list[list[bool]] | list[bool] | None = Field(
        None, description="Which numbers were observed; there when any was not."
    )
    forecast: Numbers | None = None
    forecast_lower: Numbers | None = None
    forecast_upper: Numbers | None = None


class ManyChunks(Body):
    """Chunks of many sessions, a column each."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"sessions": ["pump-7", "pump-8"], "observations": [[0.0], [0.1]]}]},
    )
    sessions: list[SessionId] = Field(
        description="One named twice is moved on in order, each chunk with its own answer.", min_length=1
    )
    observations: list[float | list[float | None] | list[list[float | None]] | None] = Field(
        description="For each session a number (one observation of a model with one input), a row (one "
        "observation) or a list of rows (a chunk); the predictions are answered just as deep. Null is a "
        "number that was not observed."
    )
    level: Level = None
    score: bool = False
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
    lower: list[Any] | None = Field(None, description="As deep as the predictions, as are all like it.")
    upper: list[Any] | None = None
    residuals: list[Any] | None = None
    scores: list[Any] | None = None
    observed: list[Any] | None = None
    errors: dict[str, Problem] = Field(description="By index, why a chunk was refused.")


class ForecastAnswer(BaseModel):
    session: str
    model: str
    position: int
    epoch: str
    forecast: Numbers
    lower: Numbers | None = None
    upper: Numbers | None = None


class RollOut(Body):
    """A forecast that has to be told what is known ahead."""

    steps: int = Field(ge=1, description="How far to roll out.")
    level: Level = None
    future: Future = None
    flat: bool = Field(False, description="Answer a model of one feature as a flat list.")


class Learns(BaseModel):
    readout: str
    forgetting: float
    prior: float
    levels: list[float] = Field(description="Of the intervals that it keeps.")


class RunningErrors(BaseModel):
    """Of the session's predictions since it was created or reset, over all outputs, in squared own units."""

    observations: int
    mse: float | None
    mae: float | None
    skill: float | None = Field(description="1 - MSE over that of saying what was observed last.")
    coverage: dict[str, float] = Field(description="By level, the share of observations in their interval.")


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
    learning: Learns | None
    level: float | None
    errors: RunningErrors | None


class SessionName(BaseModel):
    session: str
    model: str


class SessionPage(BaseModel):
    sessions: list[Session | SessionName] = Field(description="A `Session` each with `detail=true`.")
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
    learning: dict[str, Any] | None = Field(description="What its sessions learn unless they choose.")
    future: list[str] = Field(description="Inputs known ahead, which a forecast has to be told.")
    time_features: list[str] = Field(description="Made from timestamps: their columns need not be sent.")
    interval_seconds: float | None
    can_forecast: bool = Field(description="Whether the targets cover the inputs.")
    carry_bytes: int
    metrics: dict[str, Any]
    sessions_resident: int | None = Field(description="null for a key that may not know of other tenants'")
    sessions_on_older: int | None = Field(description="of those, how many keep an older network until reset")


class Reloaded(BaseModel):
    changed: bool = Field(description="Whether the artifact on disk is another network.")
    model: Model


class ModelList(BaseModel):
    models: list[Model]


class Health(BaseModel):
    status: str
    reasons: list[str] = []
