"""Limits on what a request may contain, and the names and numbers that are valid."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import msgspec

from app.errors import TooLarge, Unprocessable

# Browsers and proxies remove the path segments `.` and `..`, so sessions of these names could not be reached.
SESSION_ID = re.compile(r"(?!\.{1,2}(?![A-Za-z0-9._:\-]))[A-Za-z0-9._:\-]{1,128}", re.ASCII)
SESSION_ID_RULE = "use 1 to 128 characters of A-Z a-z 0-9 . _ : -, not . or .."
MAX_POSITION = 2**63 - 1  # positions are int64
MAX_RATE = 2**32 - 1  # samples a second: as much as a binary message and a WAV file can say
MAX_TIMESTAMP = 95_617_584_000.0  # seconds since 1970: the year 5000
SMALL_BODY_BYTES = 65_536
MAX_SESSION_ID = 128  # characters
MAX_MODEL_NAME = 256  # characters
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # of UTF-8: before JSON it is ignored, as RFC 8259 allows
# The largest double that rounds to a finite float32. The shortest decimal of the largest float32,
# 3.4028235e38, is between the two.
MAX_FLOAT32 = math.nextafter(2.0**128 - 2.0**103, 0.0)
MAX_EXACT_FLOAT32 = 2.0**24  # up to which every whole number is a float32
# What a JSON decoder raises: UnicodeDecodeError for text that is not UTF-8, RecursionError for deep nesting.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
AnyDecodeError = msgspec.DecodeError | UnicodeDecodeError | RecursionError


def validate_session_id(text: str) -> str:
    """Return a session id unchanged.

    Raises
    ------
    Unprocessable : not 1 to 128 characters of `A-Z a-z 0-9 . _ : -`, or `.` or `..`
    """
    if SESSION_ID.fullmatch(text) is None:
        raise Unprocessable(f"invalid session id {text[:140]!r}: {SESSION_ID_RULE}")
    return text


def validate_model_name(name: str | None) -> str | None:
    """Return the name of a model unchanged.

    Raises
    ------
    Unprocessable : too long; errors would repeat it for each session
    """
    if name is not None and len(name) > MAX_MODEL_NAME:
        raise Unprocessable(f"the name of a model has at most {MAX_MODEL_NAME} characters", field="model")
    return name


def check_values(body: bytes, most: int) -> None:
    """Refuse JSON of far too many values before it is parsed, because parsing it blocks the event loop.

    A value is behind a comma or a bracket. Commas and brackets in strings count, too.

    Raises
    ------
    TooLarge : more than `most` values
    """
    if len(body) > most and body.count(b",") + body.count(b"[") + body.count(b"{") > most:
        raise TooLarge(f"the JSON has more than {most} values", limit=most)


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
