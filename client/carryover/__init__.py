"""The Python client of Carryover, a server of stateful recurrent networks.

    with Carryover("http://localhost:8000") as service:
        pump = service.session("pump-7", model="sine")
        for prediction in pump.stream(readings, chunk=50):
            ...

`effects` says how it is built: every operation is a plan that does no input or output, run by `service`
(blocking) or `aio` (awaited). A chunk's way: `numbers`, `wire` or `frames`, `plans` or `streaming`, `values`.
"""

from carryover.aio import AsyncCarryover, AsyncSession, AsyncStream
from carryover.bulk import Answers
from carryover.errors import (
    BadModel,
    CannotForecast,
    CarryoverError,
    Forbidden,
    Internal,
    Malformed,
    MethodNotAllowed,
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
)
from carryover.line import NoSocket
from carryover.retry import Patience
from carryover.service import Carryover, Session, Stream
from carryover.values import Answer, Forecast, ModelInfo, Prediction, SessionInfo

__all__ = [
    "Answer",
    "Answers",
    "AsyncCarryover",
    "AsyncSession",
    "AsyncStream",
    "BadModel",
    "CannotForecast",
    "Carryover",
    "CarryoverError",
    "Forbidden",
    "Forecast",
    "Internal",
    "Malformed",
    "MethodNotAllowed",
    "ModelInfo",
    "NoSocket",
    "NotCarryover",
    "NotFound",
    "NothingObserved",
    "OtherModel",
    "OutOfStep",
    "OverLimit",
    "Overloaded",
    "Patience",
    "Prediction",
    "Problem",
    "Session",
    "SessionDamaged",
    "SessionExists",
    "SessionGone",
    "SessionInfo",
    "StepFailed",
    "Stopping",
    "StoreFailed",
    "Stream",
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
]
