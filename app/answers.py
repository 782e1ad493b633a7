"""What the engine answers: plain values, which `wire` turns into bytes."""

from __future__ import annotations

from dataclasses import dataclass

from app.rows import Answer, Floats


@dataclass(slots=True)
class Advanced:
    """A chunk applied, or answered again; or a forecast."""

    session: str
    model: str
    position: int
    epoch: int
    replayed: bool
    answer: Answer


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as people see it."""

    session: str
    model: str
    fingerprint: str
    position: int
    epoch: int
    since_reset: int
    last_prediction: Floats | None  # [outputs]
    created: float
    seen: float
    expires: float | None
    ttl_seconds: float | None


def token(epoch: int) -> str:
    """An epoch as clients see it: 16 hexadecimal digits."""
    return f"{epoch:016x}"


def epoch_of(text: str) -> int:
    """The epoch that `token` wrote; for a text that it cannot have written, one that no session has."""
    try:
        return int(text, 16) if len(text) == 16 else 0
    except ValueError:
        return 0
