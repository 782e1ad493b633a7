"""The JSON form: `{"sessions": [...], "observations": [...], "at"?, "epochs"?, "model"?}`, a column each.

The nesting of the numbers says what they are, and the predictions are nested just as deep:

    "observations": [0.1, 0.2]              a number each: one observation of a model with one input
    "observations": [[0.1, 7], [0.2, 8]]    a row each: one observation
    "observations": [[[0.1], [0.2]], ...]   a list of rows each: a chunk

It may differ between sessions. A request whose chunks are alike and valid is decoded as a whole; any other
request is decoded chunk by chunk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import orjson

from app.codec import answers, body_errors, chunks
from app.codec.bulk.request import (
    BulkLimits,
    BulkRequest,
    build_jobs,
    build_request,
    check_column_length,
    check_session_count,
    precondition_columns,
)
from app.codec.bulk.session_lists import SessionListCache
from app.codec.limits import DECODE_ERRORS, MAX_FLOAT32, MAX_POSITION, SMALL_BODY_BYTES, validate_session_id
from app.codec.problems import problem
from app.errors import CarryoverError, Malformed, TooLarge, Unprocessable
from app.jobs.answers import BulkAnswer, parse_epoch
from app.jobs.jobs import AdvanceMany
from app.jobs.options import ChunkOptions
from models.arrays import Epochs, Floats, Ints

T = TypeVar("T")

CONTENT_TYPE = "application/json"
NO_FIELDS = chunks.ChunkFields()
MAX_NUMBERS = 1_000_000  # in one request: more would block the event loop for over a tenth of a second
OPENING = re.compile(rb'"observations"\s*:\s*(\[(?:\s*\[){0,2})')
INDEX = re.compile(r"\[(\d+)\]")


class _Columns(msgspec.Struct, Generic[T], forbid_unknown_fields=True, kw_only=True):
    sessions: msgspec.Raw
    observations: list[T]
    at: list[int | None] | None = None
    epochs: list[str | None] | None = None
    model: str | None = None
    level: float | None = None
    score: bool = False


class _AnyColumns(msgspec.Struct, forbid_unknown_fields=True):
    sessions: list[Any]
    observations: list[Any]
    at: list[Any] | None = None
    epochs: list[Any] | None = None
    model: str | None = None
    level: float | None = None
    score: bool = False


# By depth: a number, a row or a chunk for each session. The second of each pair accepts nulls.
_DECODERS: dict[int, tuple[Any, Any]] = {
    1: (msgspec.json.Decoder(_Columns[float]), msgspec.json.Decoder(_Columns[float | None])),
    2: (msgspec.json.Decoder(_Columns[list[float]]), msgspec.json.Decoder(_Columns[list[float | None]])),
    3: (
        msgspec.json.Decoder(_Columns[list[list[float]]]),
        msgspec.json.Decoder(_Columns[list[list[float | None]]]),
    ),
}
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_any = msgspec.json.Decoder(_AnyColumns).decode


def decode(body: bytes, limits: BulkLimits, session_lists: SessionListCache) -> BulkRequest:
    """Decode a request.

    Raises
    ------
    Malformed, Unprocessable, TooLarge : the whole request is refused
    """
    if len(body) > SMALL_BODY_BYTES and body.count(b",") > MAX_NUMBERS:
        raise TooLarge(f"a request has at most {MAX_NUMBERS} numbers", limit=MAX_NUMBERS)
    opening = OPENING.search(body)
    depth = opening[1].count(b"[") if opening else 1
    try:
        columns, gaps = _decode_columns(body, depth)
        sessions = session_lists.decode(bytes(columns.sessions), _decode_names, limits.sessions)
    except DECODE_ERRORS:
        return _decode_each(_any_columns(body), limits)
    _check_columns(columns, len(sessions), limits)
    arrays = _arrays(columns.observations, depth)
    if arrays is None or (columns.at is not None and not _are_positions(columns.at)):
        return _decode_each(_any_columns(body), limits)
    epochs = (
        None
        if columns.epochs is None
        else [0 if text is None else parse_epoch(text) for text in columns.epochs]
    )
    job = AdvanceMany(sessions, *arrays, *precondition_columns(columns.at, epochs), columns.model)
    job.options = _options(columns, gaps=gaps)
    return build_request(job, limits, depth)


def encode(answer: BulkAnswer, request: BulkRequest) -> bytes:
    """Encode an answer; null in place of what was refused."""
    refused = sorted(answer.errors)
    payload: dict[str, Any] = {
        "positions": _with_nulls(answer.positions, refused)
        if refused
        else np.ascontiguousarray(answer.positions),
        "epochs": orjson.Fragment(_epoch_tokens(answer.epochs, refused)),
        "predictions": _predictions(answer, request.depths),
        "replayed": answer.replayed,
        **{name: _sparse(name, arrays, request) for name, arrays in answer.extra_outputs.items()},
        "errors": {str(i): problem(error)[1] for i, error in answer.errors.items()},
    }
    return orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY)


# Decoding a request as a whole.


def _decode_columns(body: bytes, depth: int) -> tuple[_Columns[Any], bool]:
    """The columns, and whether nulls may be among the numbers."""
    plain, gapped = _DECODERS[depth]
    try:
        return plain.decode(body), False
    except msgspec.ValidationError as error:
        if "`null`" not in str(error):
            raise
        return gapped.decode(body), True


def _check_columns(columns: _Columns[Any] | _AnyColumns, count: int, limits: BulkLimits) -> None:
    check_session_count(count, limits)
    for name in ("observations", "at", "epochs"):
        column = getattr(columns, name)
        if column is not None:
            check_column_length(name, len(column), count)


def _are_positions(at: Sequence[int | None]) -> bool:
    positions = [position for position in at if position is not None]
    return not positions or (min(positions) >= 0 and max(positions) <= MAX_POSITION)


def _arrays(observations: list[Any], depth: int) -> tuple[Floats, Ints] | None:
    """Observations [total, inputs] and lengths [n]; None where a row or a number is not like the others."""
    rows = observations
    lengths = np.ones(len(observations), np.int64)
    if depth == 3:
        lengths = np.fromiter(map(len, observations), np.int64, len(observations))
        rows = list(chain.from_iterable(observations))
    width = 1
    if depth > 1:
        widths = set(map(len, rows))
        if len(widths) != 1:
            return None
        width = widths.pop()
        rows = list(chain.from_iterable(rows))
    exact = np.array(rows, np.float64)  # NaN for null: the decoders refuse NaN itself
    if not width or (np.abs(exact) > MAX_FLOAT32).any():
        return None
    return exact.astype(np.float32).reshape(-1, width), lengths


def _options(columns: _Columns[Any] | _AnyColumns, *, gaps: bool) -> ChunkOptions | None:
    needed = gaps or columns.score or columns.level is not None
    return ChunkOptions(columns.level, columns.score, gaps) if needed else None


# Decoding it chunk by chunk.


def _any_columns(body: bytes) -> _AnyColumns:
    """The columns, with anything in them.

    Raises
    ------
    Malformed, Unprocessable
    """
    try:
        return _decode_any(body)
    except msgspec.ValidationError as error:
        raise body_errors.decode_error(body, error) from None
    except DECODE_ERRORS as error:
        try:
            # NaN and Infinity are not JSON but are sent: as texts they refuse the chunk that they are in.
            return msgspec.convert(json.loads(body, parse_constant=str), _AnyColumns)
        except (ValueError, RecursionError):
            raise Malformed(f"the body is not JSON: {error}") from None


def _decode_each(columns: _AnyColumns, limits: BulkLimits) -> BulkRequest:
    """The request, decoded chunk by chunk: a job for each width, and the errors of the other chunks."""
    count = len(columns.sessions)
    _check_columns(columns, count, limits)
    errors: dict[int, CarryoverError] = {}
    arrays: dict[int, Floats] = {}
    at, epochs = [-1] * count, [0] * count
    for i in range(count):
        try:
            validate_session_id(_text(columns.sessions[i], "a session id"))
            if columns.at is not None and columns.at[i] is not None:
                at[i] = _position(columns.at[i])
            if columns.epochs is not None and columns.epochs[i] is not None:
                epochs[i] = parse_epoch(_text(columns.epochs[i], "an epoch"))
            arrays[i] = _chunk(columns.observations[i], limits)
        except CarryoverError as error:
            errors[i] = error
    jobs = build_jobs(columns.sessions, arrays, at, epochs, columns.model)
    for _, job in jobs:
        job.options = _options(columns, gaps=bool(np.isnan(job.observations).any()))
    return BulkRequest(count, jobs, errors, [_depth(item) for item in columns.observations])


def _chunk(item: Any, limits: BulkLimits) -> Floats:
    """[steps, inputs] of a number, a row or a list of rows."""
    depth = _depth(item)
    rows = item if depth == 3 else [item] if depth == 2 else [[item]]
    try:
        rows = msgspec.convert(rows, chunks.GappedRows)
    except msgspec.ValidationError as error:
        row, column = (int(index) for index in (*INDEX.findall(str(error)), 0, 0)[:2])
        raise body_errors.invalid_number_error(row, column, "is not a number") from None
    except OverflowError:
        raise Unprocessable("a number is too large for a float32") from None
    return chunks.validate_chunk(rows, NO_FIELDS, limits.chunk, gaps=True).observations


def _depth(item: Any) -> int:
    if not isinstance(item, list):
        return 1
    return 3 if not item or isinstance(item[0], list) else 2


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Unprocessable(f"{what} must be a string, not {value!r:.40}")
    return value


def _position(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unprocessable(f"at must be a whole number, not {value!r:.40}", field="at")
    return chunks.validate_position(value) or 0


# Encoding an answer.


def _predictions(answer: BulkAnswer, depths: int | Sequence[int]) -> Any:
    """The predictions, nested as deep as the observations were."""
    numbers, outputs = np.ascontiguousarray(answer.predictions), answer.outputs
    if isinstance(depths, int) and isinstance(outputs, int) and not answer.errors:
        if depths == 3:
            steps = int(answer.steps[0])
            if (answer.steps == steps).all():
                return numbers.reshape(-1, steps, outputs)
        elif outputs == 1:
            # orjson writes a flat array several times faster than rows of one number.
            flat = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
            return orjson.Fragment(flat if depths == 1 else b"[" + flat.replace(b",", b"],[") + b"]")
        else:
            return numbers.reshape(-1, outputs)
    return _each_prediction(
        answer, numbers, [depths] * len(answer.steps) if isinstance(depths, int) else depths
    )


def _each_prediction(answer: BulkAnswer, numbers: Floats, depths: Sequence[int]) -> list[Any]:
    counts = answer.steps * answer.outputs
    ends = np.cumsum(counts).tolist()
    widths = np.broadcast_to(answer.outputs, counts.shape).tolist()
    predictions: list[Any] = []
    for i, (count, end, width, depth) in enumerate(zip(counts.tolist(), ends, widths, depths, strict=True)):
        if i in answer.errors:
            predictions.append(None)
            continue
        part = numbers[end - count : end]
        if depth == 3:
            predictions.append(part.reshape(-1, width))
        else:
            predictions.append(part if depth == 2 or count > 1 else part[0])
    return predictions


def _sparse(name: str, arrays: dict[int, Floats], request: BulkRequest) -> list[Any]:
    """A further output, nested as deep as the predictions; null for the chunks that do not have it."""
    column: list[Any] = [None] * request.count
    for i, numbers in arrays.items():
        depth = request.depths if isinstance(request.depths, int) else request.depths[i]
        rows = answers.output_array(name, numbers, flat=False)
        column[i] = rows if depth == 3 else rows[0] if depth == 2 or rows.ndim == 1 else rows[0, 0]
    return column


def _with_nulls(positions: Ints, refused: Sequence[int]) -> list[int | None]:
    column: list[int | None] = positions.tolist()
    for i in refused:
        column[i] = None
    return column


def _epoch_tokens(epochs: Epochs, refused: Sequence[int]) -> bytes:
    """Epochs as a JSON list of 16 hexadecimal digits each, written as one array of characters."""
    text = np.full((len(epochs), 19), ord('"'), np.uint8)
    digits = epochs.astype(">u8").tobytes().hex().encode()
    text[:, 1:17] = np.frombuffer(digits, np.uint8).reshape(-1, 16)
    text[:, 18] = ord(",")
    text[list(refused), :18] = np.frombuffer(b"null".ljust(18), np.uint8)
    return b"[" + text.tobytes()[:-1].replace(b" ", b"") + b"]"
