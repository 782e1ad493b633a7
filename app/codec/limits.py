"""Limits on what a request may contain, and the names and numbers that are valid."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec
import numpy as np

from app.errors import Unprocessable

SESSION_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}", re.ASCII)
MAX_POSITION = 2**63 - 1  # no position is beyond it
MAX_TIMESTAMP = 95_617_584_000.0  # seconds since 1970: the year 5000
SMALL_BODY_BYTES = 65_536
MAX_FLOAT32 = float(np.finfo(np.float32).max)
# What decoding raises: the second for a text that is not UTF-8, the third for one of a thousand brackets.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
AnyDecodeError = msgspec.DecodeError | UnicodeDecodeError | RecursionError


def validate_session_id(text: str) -> str:
    """A valid session id, as it is.

    Raises
    ------
    Unprocessable
    """
    if SESSION_ID.fullmatch(text) is None:
        raise Unprocessable(f"{text[:140]!r} is no session id: 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    return text


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for."""

    observations: int  # in one chunk
    steps: int  # in one forecast
    inputs: int  # of the widest model
