"""The bodies of the control routes, and all answers, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from app.codec.limits import MAX_MODEL_NAME, MAX_POSITION, MAX_RATE, SESSION_ID, SESSION_ID_RULE
from app.session.notes import MAX_ALARMS_PER_WEEK, MAX_CLEAR_AFTER
from app.session.state_file import MAX_TTL_SECONDS
from models.artifact.learning import MAX_LEVELS

At = Annotated[
    int | None,
    Field(
        ge=0,
        le=MAX_POSITION,
        description="The position that you expect the session to have; 409 if it has another.",
    ),
]
Epoch = Annotated[
    str | None,
    Field(description="The epoch of an earlier answer; 409 if the session was created again since."),
]


def _session_id(text: str) -> str:
    if SESSION_ID.fullmatch(text) is None:
        raise PydanticCustomError("session_id", f"not a session id: {SESSION_ID_RULE}")
    return text


SessionId = Annotated[
    str,
    AfterValidator(_session_id),
    Field(
        description="1 to 128 characters of `A-Z a-z 0-9 . _ : -`, not `.` or `..`.",
        json_schema_extra={"pattern": f"^{SESSION_ID.pattern}$"},
    ),
]
# They have names, so that a generator of clients makes one type of each. Its options can replace that type.
Numbers = TypeAliasType("Numbers", list[list[float]] | list[float])
Quantiles = TypeAliasType("Quantiles", dict[str, Numbers])  # by name, such as 0.05
NumbersWithGaps = TypeAliasType("NumbersWithGaps", list[list[float | None]] | list[float | None])
ForecastNumbers = TypeAliasType("ForecastNumbers", Numbers | dict[str, list[Any]])
Observed = TypeAliasType("Observed", list[list[bool]] | list[bool])
BulkNumbers = TypeAliasType("BulkNumbers", float | list[float] | list[list[float]])
BulkNumbersWithGaps = TypeAliasType(
    "BulkNumbersWithGaps", float | list[float | None] | list[list[float | None]]
)
Level = Annotated[
    float | None,
    Field(gt=0, lt=1, description="Add prediction intervals of this level, which the session must keep."),
]


DEFINITIONS = "#/$defs/"


def schema_of(shape: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a shape, by its name: `app.api.document` moves the definition to its place."""
    schema = shape.model_json_schema()
    return {
        "$ref": DEFINITIONS + shape.__name__,
        "$defs": {**schema.pop("$defs", {}), shape.__name__: schema},
    }


class FirstErrorOnly(FailFast):
    """Of a list: an error for each of its entries would take gigabytes."""

    __hash__ = object.__hash__  # which a union needs


Row = Annotated[list[float], FirstErrorOnly()]
FutureRows = TypeAliasType("FutureRows", Annotated[list[Row], FirstErrorOnly()] | Row)
Future = Annotated[
    FutureRows | None,
    Field(
        description="For a forecast, a row for each step: the inputs that are known ahead, in their order."
    ),
]


class RequestBody(BaseModel):
    """A request body. Unknown fields are refused by name, and a string is never converted to a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class LearningOptions(RequestBody):
    """How the session learns. Absent fields are as the model's artifact says."""

    readout: Literal["off", "gain", "rls"] | None = Field(
        None, description="How its own errors correct its predictions."
    )
    forgetting: float | None = Field(
        None, gt=0.5, le=0.9999, description="Weight that an observation keeps at the next."
    )
    prior: float | None = Field(
        None, ge=1e-6, le=1e6, description="Strength of the pull towards the trained readout."
    )
    intervals: bool | None = Field(None, description="Whether it keeps intervals, surprise and errors.")


class AlertOptions(RequestBody):
    """When a session raises an alert. Needs `score_above` or `outside`, or `alarms_per_week` without them.
    The session must keep intervals."""

    score_above: float | None = Field(None, ge=0, lt=1, description="At an observation of higher surprise.")
    outside: float | None = Field(
        None, gt=0, lt=1, description="At an observation outside its interval of this level."
    )
    clear_after: int = Field(
        1,
        ge=1,
        le=MAX_CLEAR_AFTER,
        description="Observations in a row without either, after which another alert can be raised.",
    )
    alarms_per_week: float | None = Field(
        None, gt=0, le=MAX_ALARMS_PER_WEEK, description="At what is so rare that there are so many a week."
    )
    kind: Literal["any", "value", "level shift", "trend"] | None = Field(
        None, description="Of what `alarms_per_week` counts; any where absent."
    )
    refractory: str | None = Field(
        None,
        max_length=32,
        examples=["6h"],
        description="Time with nothing as rare, after which another alert can be raised; 6h where absent.",
    )
    step: str | None = Field(
        None,
        max_length=32,
        examples=["10min"],
        description="Time from one observation to the next; that of the model's timestamps where absent.",
    )
    webhook: str | None = Field(
        None, max_length=64, description="Name of a webhook of `CARRYOVER_ALERTS_FILE` that gets it."
    )


class NewSession(RequestBody):
    id: SessionId | None = Field(None, description="Random when absent.")
    model: str | None = Field(
        None,
        max_length=MAX_MODEL_NAME,
        description="The default model when absent; 422 if there is no default.",
    )
    ttl_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_TTL_SECONDS,
        description="The session expires when idle for this long; the server's default when absent.",
    )
    learning: LearningOptions | None = None
    level: Level = Field(None, description="Add prediction intervals of this level to every answer.")
    alert: AlertOptions | None = None
    labels: dict[str, str] = Field(
        default_factory=dict,
        description='Such as `{"site": "north"}`: at most 16, by which `GET /sessions` finds the session.',
    )
    series: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Of a model that was trained on many series, the one whose scale the session has. When "
        "absent, the one with the session's id; if there is none, the session finds its own scale.",
    )


class Precondition(RequestBody):
    at: At = None
    epoch: Epoch = None


class SessionChanges(Precondition):
    alert: AlertOptions | None = Field(
        None, description="The session's own alert; null removes it. An alert that is raised is forgotten."
    )
    labels: dict[str, str | None] | None = Field(
        None,
        description="Labels to set; null removes a label, and null in place of the object removes all of "
        "them. Others stay.",
    )


class ForkRequest(Precondition):
    id: SessionId | None = Field(None, description="The new session's id; random when absent.")


Levels = Annotated[
    list[Annotated[float, Field(gt=0, lt=1)]],
    Field(
        max_length=MAX_LEVELS,
        description="Add quantiles: the ends of intervals of these levels, which the session must keep.",
    ),
]


class Chunk(RequestBody):
    """One or more consecutive observations."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"observations": [[0.0], [0.1]], "at": 0}]}
    )
    observations: NumbersWithGaps | None = Field(
        None,
        description="A row for each observation, a number for each feature, in the data's own units; null "
        "if not observed. For a model with one feature a flat list is accepted and answered flat.",
        json_schema_extra={"minItems": 1},
    )
    inputs: dict[str, list[Any]] | None = Field(
        None,
        description="In place of observations: the numbers of each input by its name, `[steps, *shape]`.",
    )
    skip: int | None = Field(
        None, ge=1, description="In place of observations: the number of observations that are missing whole."
    )
    timestamps: list[float | str] | None = Field(
        None,
        description="For a model with time features, the time of each row: RFC 3339, or seconds since 1970. "
        "The columns made from them are then left out of the observations.",
    )
    level: Level = None
    levels: Levels | None = None
    score: bool = Field(
        False, description="Add the error of the earlier prediction for each observation, and its surprise."
    )
    future: Future = None
    at: At = None
    epoch: Epoch = None
    horizon: int | None = Field(None, ge=0, description="Add a forecast of this many steps.")
    model: str | None = Field(None, description="The model of the session, if this chunk creates it.")
    labels: dict[str, str] | None = Field(
        None, description="The labels of the session, if this chunk creates it."
    )
    rate: int | None = Field(
        None,
        ge=1,
        le=MAX_RATE,
        description="Of a model over samples: samples a second. The session keeps it until it is reset.",
    )


class SpeechEvent(BaseModel):
    event: Literal["speech_start", "speech_end"]
    sample: int = Field(description="The position of the sample.")


class Predictions(BaseModel):
    session: str
    model: str
    position: int = Field(description="Observations since the session was created; never decreases.")
    epoch: str
    replayed: bool = Field(description="The chunk had been applied before; this is its stored answer.")
    predictions: Numbers | None = Field(
        None,
        description="`predictions[t]` predicts what follows `observations[t]`; absent beside `outputs`.",
    )
    outputs: dict[str, list[Any]] | None = Field(
        None,
        description="Of a model with several outputs: its predictions by the name of the output, "
        "`[steps, *shape]`.",
    )
    lower: Numbers | None = None
    upper: Numbers | None = None
    residuals: NumbersWithGaps | None = Field(None, description="Observed value minus its prediction.")
    scores: list[float | None] | None = Field(
        None,
        description="The surprise of each observation: 1 minus the share of errors as large or larger.",
    )
    observed: Observed | None = Field(None, description="Which numbers were observed; absent when all were.")
    forecast: ForecastNumbers | None = None
    forecast_lower: Numbers | None = None
    forecast_upper: Numbers | None = None
    covers: list[int] | None = Field(
        None,
        description="Of a model over samples: the position of the first sample of the frames that the "
        "predictions are of, and that behind their last sample.",
    )
    events: list[SpeechEvent] | None = Field(
        None, description="Of a model over samples with events: where speech started and ended."
    )
    quantiles: Quantiles | None = Field(
        None,
        description="With `levels`: the ends of each interval around the predictions, by the quantile, such "
        "as 0.05 and 0.95.",
    )
    forecast_quantiles: Quantiles | None = Field(
        None, description="With `levels` and a `horizon`: the same around the forecast."
    )
    times: list[str] | None = Field(
        None, description="The time that each prediction is for; absent of a session without timestamps."
    )
    forecast_times: list[str] | None = None


class ModelRows(BaseModel):
    columns: list[str] = Field(description="The inputs of the model, in order.")
    ignored: list[str] = Field(description="Columns that the model does not read.")
    notes: list[str] = Field(description="What was found, such as the unit of times.")
    observations: list[list[float | None]] = Field(description="`[rows, columns]`; null if not observed.")
    timestamps: list[float] | None = Field(description="Seconds since 1970 of each row, if it has a time.")


class BulkChunks(RequestBody):
    """Chunks of many sessions, in columns."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"sessions": ["pump-7", "pump-8"], "observations": [[0.0], [0.1]]}]},
    )
    sessions: list[SessionId] = Field(
        description="A session may be named twice: its chunks are applied in order, each with an answer.",
        min_length=1,
    )
    observations: list[BulkNumbersWithGaps | None] | None = Field(
        None,
        description="For each session a number (one observation of a model with one input), a row (one "
        "observation) or a list of rows (a chunk); the predictions are nested as deep. Null: not observed.",
    )
    inputs: dict[str, list[list[Any]]] | None = Field(
        None,
        description="In place of observations: by the name of the input, a list of steps for each session.",
    )
    level: Level = None
    levels: Levels | None = None
    score: bool = False
    at: list[int | None] | None = Field(
        None, description="The position that you expect each session to have."
    )
    epochs: list[str | None] | None = None
    model: str | None = Field(None, description="The model of the sessions that this request creates.")


class InferenceTensor(BaseModel):
    name: str
    datatype: str = Field(description="FP32, FP64, INT64, INT32, UINT8 or BOOL.")
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = Field(None, description="The numbers, row after row, nested or flat.")


class InferenceRequest(BaseModel):
    """A request of the Open Inference Protocol. `parameters` has `sequence_id` and `sequence_start`."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[InferenceTensor]
    outputs: list[dict[str, Any]] | None = None


class InferenceResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[InferenceTensor]


class InferenceError(BaseModel):
    """Every error of the Open Inference Protocol."""

    model_config = ConfigDict(extra="allow")
    error: str
    problem: dict[str, Any] | None = Field(None, description="The same error as a `Problem`.")


class Problem(BaseModel):
    """Every error (RFC 9457). Further members depend on the type: `position`, `row`, ..."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str


class BulkPredictions(BaseModel):
    """Columns in the order of the request; null where a chunk was refused."""

    positions: list[int | None]
    epochs: list[str | None]
    predictions: list[BulkNumbers | None] | None = Field(None, description="Absent beside `outputs`.")
    outputs: dict[str, list[Any]] | None = Field(
        None,
        description="Where all sessions run a model with several outputs: by the name of the output, an "
        "entry for each session.",
    )
    replayed: list[int] = Field(description="Indexes of chunks that had been applied before.")
    lower: list[Any] | None = Field(
        None, description="Nested as the predictions, as are the following columns."
    )
    upper: list[Any] | None = None
    residuals: list[Any] | None = None
    scores: list[Any] | None = None
    observed: list[Any] | None = None
    quantiles: dict[str, list[Any]] | None = Field(
        None, description="With `levels`: by the quantile, such as 0.05, a column nested as the predictions."
    )
    times: list[Any] | None = Field(None, description="The times that the predictions are for.")
    errors: dict[str, Problem] = Field(description="By index, the errors of refused chunks.")


class ForecastAnswer(BaseModel):
    session: str
    model: str
    position: int
    epoch: str
    forecast: ForecastNumbers
    lower: Numbers | None = None
    upper: Numbers | None = None
    quantiles: Quantiles | None = Field(
        None,
        description="With `levels`: the ends of each interval, by the quantile, such as 0.05 and 0.95.",
    )
    times: list[str] | None = Field(
        None, description="The time of each step; absent of a session without timestamps."
    )


class History(BaseModel):
    """What a session observed last, oldest first, in columns of the same length."""

    session: str
    model: str
    position: int
    epoch: str
    from_: int = Field(
        alias="from", description="The position before the first observation: what came earlier is forgotten."
    )
    positions: list[int] = Field(description="The position after each observation.")
    inputs: list[str] = Field(description="Names of the numbers of an observation.")
    targets: list[str] = Field(description="Names of the numbers of a prediction.")
    observations: list[list[float | None]]
    pieces: list[str] | None = Field(None, description="Of a model of text: the text of each token.")
    predictions: list[list[float]] | None = Field(
        None, description="Of what follows each observation; absent beside `outputs`, and of a model of text."
    )
    outputs: dict[str, list[Any]] | None = Field(
        None, description="Of a model with several outputs: its predictions by the name of the output."
    )
    lower: list[list[float | None]] | None = Field(
        None, description="The interval around each prediction; absent if none was asked for."
    )
    upper: list[list[float | None]] | None = None
    scores: list[float | None] | None = Field(None, description="The surprise of each observation.")
    times: list[str | None] | None = Field(
        None, description="Of the observations; absent of a session without timestamps."
    )
    predicted_times: list[str | None] | None = Field(
        None, description="The time that each prediction is for."
    )


class ForecastRequest(RequestBody):
    """A forecast, with the inputs that are known ahead."""

    steps: int = Field(ge=1, description="Length of the forecast.")
    level: Level = None
    levels: Levels = Field(default_factory=list)
    future: Future = None
    flat: bool = Field(False, description="Answer a model of one feature as a flat list.")


class LearningSettings(BaseModel):
    readout: str
    forgetting: float
    prior: float
    levels: list[float] = Field(description="Levels of the intervals that it keeps.")


class TargetErrors(BaseModel):
    """Errors of the predictions of one target, in its units; null where it was never observed."""

    mse: float | None
    mae: float | None
    skill: float | None


class RunningErrors(BaseModel):
    """Errors of the predictions since the session was created or reset, over all outputs, in its units."""

    observations: int
    mse: float | None
    mae: float | None
    skill: float | None = Field(description="1 - MSE / MSE of repeating the last observation.")
    coverage: dict[str, float] = Field(
        description="By level, the share of observations within their interval."
    )
    by_target: list[TargetErrors] = Field(
        description="The same for each target, in the order of the model's `targets`; empty before the first."
    )


class Session(BaseModel):
    session: str
    model: str
    fingerprint: str
    position: int
    epoch: str
    observations_since_reset: int
    last_prediction: list[float] | None
    time: str | None = Field(description="Of the last observation; null of a session without timestamps.")
    created: str
    updated: str
    expires: str | None
    ttl_seconds: float | None
    learning: LearningSettings | None
    level: float | None
    errors: RunningErrors | None
    surprise: float | None = Field(
        description="Of its last observation: 1 minus the share of errors as large or larger."
    )
    labels: dict[str, str]
    alert: dict[str, Any] | None = Field(description="Its own, as it was set.")
    alert_raised: bool = Field(description="Whether an alert is raised and not cleared yet.")
    rate: int | None = Field(
        description="Samples a second, of a session over samples: the network's own until a chunk names "
        "another. Null for others."
    )


class SessionName(BaseModel):
    session: str
    model: str


class SessionPage(BaseModel):
    sessions: list[Session | SessionName] = Field(description="With `detail=true` each is a `Session`.")
    next: str | None = Field(description="The `cursor` of the next page; null on the last.")
    total: int = Field(description="Sessions of all models, resident or not.")


class Feature(BaseModel):
    name: str
    unit: str | None
    dtype: str = Field(description="float32, float16, int64, int32, uint8 or bool.")
    shape: list[int] = Field(
        description="Of one observation; empty for a single number. A row of observations has the numbers "
        "of all inputs, one after the other."
    )
    columns: list[str] | None = Field(description="Names of its numbers.")
    range: list[float] | None = Field(description="The least and the greatest number; others are refused.")


class InputFeature(Feature):
    mean: float | None = Field(
        description="Of the training data, as is `std`; null where the model takes numbers as they are."
    )
    std: float | None


class OutputFeature(Feature):
    kind: str = Field(description="number, probability or logits.")


class StateTensor(BaseModel):
    input: str = Field(description="The graph's input that a step takes it from.")
    output: str = Field(description="The graph's output that becomes this input of the next step.")
    dtype: str
    shape: list[int] = Field(description="Of one session.")


class EmbeddingShape(BaseModel):
    vocabulary: int
    width: int


class Architecture(BaseModel):
    cell: str = Field(description="lstm, gru or rnn")
    head: list[int | str] = Field(description="Layers before the readout: a number is a linear layer.")
    embedding: EmbeddingShape | None = Field(description="Set where the input is a token.")


class SampleFrames(BaseModel):
    rate: int = Field(description="Samples a second that the network wants; others are resampled.")
    frame: int = Field(description="Samples of a frame, for each of which there is a prediction.")
    events: dict[str, Any] | None = Field(description="When speech starts and ends.")


class Model(BaseModel):
    name: str
    default: bool
    fingerprint: str
    inputs: list[InputFeature]
    outputs: list[OutputFeature]
    states: list[StateTensor] = Field(description="Kept of a session; empty for networks that are no graphs.")
    targets: list[str] = Field(description="Names of the numbers of a prediction.")
    hidden_size: int | None = Field(description="Null for a graph, as are the next three.")
    num_layers: int | None
    architecture: Architecture | None
    predicts: str | None
    learning: dict[str, Any] | None = Field(description="How its sessions learn by default.")
    future: list[str] = Field(description="Inputs known ahead, which a forecast needs.")
    series: int | None = Field(
        description="How many series it was trained on, each with its own scale; null: one scale for all."
    )
    time_features: list[str] = Field(description="Columns made from timestamps, which are not sent.")
    interval_seconds: float | None
    can_forecast: bool = Field(description="Whether the targets cover the inputs.")
    feedback: dict[str, str] = Field(
        description="By input, the output that becomes its next value in a forecast."
    )
    sample_prompt: str | None = Field(
        description="Of a model of text, a short text that it reads. Null for others."
    )
    vocabulary: int | None = Field(
        description="Of a model of text, how many pieces of text it knows: its targets. Null for others."
    )
    carry_bytes: int
    unit: Literal["sample"] | None = Field(description="What an observation is, if it is no row.")
    samples: SampleFrames | None = Field(description="Of a model whose unit is the sample.")
    metrics: dict[str, Any]
    has_figure: bool = Field(description="Whether `GET /models/{name}/figure` has a picture of its training.")
    sessions_resident: int | None = Field(description="null for a key that sees one tenant only")
    sessions_on_older: int | None = Field(description="how many of them keep an older network until reset")


class ReloadResult(BaseModel):
    changed: bool = Field(description="Whether the artifact on disk is another network.")
    model: Model


class ModelList(BaseModel):
    models: list[Model]


class Health(BaseModel):
    status: str
    reasons: list[str] = []
