"""Limits on what a request may contain, and the names and numbers that are valid."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec
import numpy as np

from app.errors import Unprocessable

SESSION_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}", re.ASCII)
MAX_POSITION = 2**63 - 1  # positions are int64
MAX_TIMESTAMP = 95_617_584_000.0  # seconds since 1970: the year 5000
SMALL_BODY_BYTES = 65_536
MAX_FLOAT32 = float(np.finfo(np.float32).max)
# What a JSON decoder raises: UnicodeDecodeError for text that is not UTF-8, RecursionError for deep nesting.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
AnyDecodeError = msgspec.DecodeError | UnicodeDecodeError | RecursionError


def validate_session_id(text: str) -> str:
    """Return a session id unchanged.

    Raises
    ------
    Unprocessable : not 1 to 128 characters of `A-Z a-z 0-9 . _ : -`
    """
    if SESSION_ID.fullmatch(text) is None:
        raise Unprocessable(
            f"invalid session id {text[:140]!r}: use 1 to 128 characters of A-Z a-z 0-9 . _ : -"
        )
    return text


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a request may ask for.

    observations : in one chunk
    steps : of one forecast
    inputs : of the widest model
    """

    observations: int
    steps: int
    inputs: int
