"""The Python client of Carryover, a server of stateful recurrent networks.

    with Carryover("http://localhost:8000") as service:
        pump = service.session("pump-7", model="sine")
        for prediction in pump.stream(readings, chunk=50):
            ...

Every operation is a plan, a generator that does no input or output (see `effects`). `service` runs plans with
blocking calls and `aio` with awaited calls. A chunk passes through `observations`, and a table
through `named`; then through `wire` or `frames`, then `plans` or `streaming`; its answer through `values`.
`resuming` finds where an interrupted stream goes on.

`texts` is what a model of text writes, and `events` are the alerts of a server.

`export` makes an artifact of a PyTorch module: see `exporting`.
"""

from carryover.aio import AsyncCarryover, AsyncSession, AsyncStream
from carryover.audio import AsyncAudioStream, AudioStream, Segment
from carryover.bulk import BulkAnswer
from carryover.errors import (
    BadModel,
    CannotForecast,
    CannotResume,
    CannotWrite,
    CarryoverError,
    ExportError,
    Forbidden,
    Internal,
    Malformed,
    MethodNotAllowed,
    NoFigure,
    NotCarryover,
    NotFound,
    NothingObserved,
    OtherModel,
    OutOfStep,
    OverLimit,
    Overloaded,
    Problem,
    SessionDamaged,
    SessionExists,
    SessionGone,
    StepFailed,
    Stopping,
    StoreFailed,
    TlsFailed,
    TooLarge,
    TooManySessions,
    Unauthorized,
    Unavailable,
    UnknownModel,
    UnknownSession,
    Unprocessable,
    Unreachable,
    Unsupported,
    UnsupportedType,
    WorkerUnavailable,
)
from carryover.events import Event
from carryover.exporting import export
from carryover.retry import RetryPolicy
from carryover.service import Carryover, Session, Stream
from carryover.session_socket import SocketUnavailable
from carryover.texts import AsyncTextStream, TextStream, Token
from carryover.values import Answer, Forecast, History, ModelInfo, Prediction, SessionInfo

__all__ = [
    "Answer",
    "AsyncAudioStream",
    "AsyncCarryover",
    "AsyncSession",
    "AsyncStream",
    "AsyncTextStream",
    "AudioStream",
    "BadModel",
    "BulkAnswer",
    "CannotForecast",
    "CannotResume",
    "CannotWrite",
    "Carryover",
    "CarryoverError",
    "Event",
    "ExportError",
    "Forbidden",
    "Forecast",
    "History",
    "Internal",
    "Malformed",
    "MethodNotAllowed",
    "ModelInfo",
    "NoFigure",
    "NotCarryover",
    "NotFound",
    "NothingObserved",
    "OtherModel",
    "OutOfStep",
    "OverLimit",
    "Overloaded",
    "Prediction",
    "Problem",
    "RetryPolicy",
    "Segment",
    "Session",
    "SessionDamaged",
    "SessionExists",
    "SessionGone",
    "SessionInfo",
    "SocketUnavailable",
    "StepFailed",
    "Stopping",
    "StoreFailed",
    "Stream",
    "TextStream",
    "TlsFailed",
    "Token",
    "TooLarge",
    "TooManySessions",
    "Unauthorized",
    "Unavailable",
    "UnknownModel",
    "UnknownSession",
    "Unprocessable",
    "Unreachable",
    "Unsupported",
    "UnsupportedType",
    "WorkerUnavailable",
    "export",
]
