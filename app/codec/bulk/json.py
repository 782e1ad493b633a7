"""The JSON form: `{"sessions": [...], "observations": [...], "at"?, "epochs"?, "model"?}`, a column each.

The nesting of the numbers says what they are, and the predictions are nested just as deep:

    "observations": [0.1, 0.2]              a number each: one observation of a model with one input
    "observations": [[0.1, 7], [0.2, 8]]    a row each: one observation
    "observations": [[[0.1], [0.2]], ...]   a list of rows each: a chunk

It may differ between sessions. `inputs` in place of `observations` has them by name (`app.codec.bulk.named`).

A small request whose chunks are alike and valid is decoded as a whole; any
other request is decoded in slices, and a slice whose chunks are not alike chunk by chunk.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import orjson

from app.codec import answers, body_errors, chunks
from app.codec.bulk import named
from app.codec.bulk.request import (
    BulkLimits,
    BulkRequest,
    build_jobs,
    build_request,
    check_column_length,
    check_session_count,
    last_of,
    precondition_columns,
)
from app.codec.bulk.session_ids import read_json_list
from app.codec.limits import (
    BYTE_ORDER_MARK,
    DECODE_ERRORS,
    MAX_EXACT_FLOAT32,
    MAX_FLOAT32,
    MAX_POSITION,
    SMALL_BODY_BYTES,
    validate_model_name,
    validate_session_id,
)
from app.codec.problems import problem
from app.errors import CarryoverError, TooLarge, Unprocessable
from app.jobs.answers import QUANTILE, BulkAnswer, parse_epoch
from app.jobs.jobs import AdvanceMany
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from models.arrays import AnyArray, Epochs, Ints, Numbers
from models.forecaster import COVERS

T = TypeVar("T")

CONTENT_TYPE = "application/json"
NO_FIELDS = chunks.ChunkFields()
MAX_NUMBERS = 1_000_000  # in one request
MAX_ENTRY_BYTES = 256  # of a session id, a position or an epoch in a large request
LARGE_BODY_BYTES = 2**18  # a larger body is decoded in slices, with pauses: as a whole it takes over 10 ms
SLICE_BYTES = 2**14  # decoded between two pauses: about a millisecond
OPENING = re.compile(rb'"observations"\s*:\s*(\[(?:\s*\[){0,2})')
# Each begins with its literal, which `re` finds 20 times faster than a pattern.
INDEX = re.compile(r"\[(\d+)\]")
NON_FINITE = tuple(
    re.compile(rb"%b(?<=[\[,:\s]%b)(?=[\],}\s])" % (token, token))
    for token in (b"NaN", b"Infinity", b"-Infinity")
)


class _Columns(msgspec.Struct, Generic[T], forbid_unknown_fields=True, kw_only=True):
    sessions: msgspec.Raw
    observations: list[T]
    at: list[int | None] | None = None
    epochs: list[str | None] | None = None
    model: str | None = None
    level: float | None = None
    levels: list[float] | None = None
    score: bool = False


class _RawColumns(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    sessions: msgspec.Raw
    observations: list[msgspec.Raw] | None = None
    inputs: dict[str, list[msgspec.Raw]] | None = None
    at: msgspec.Raw = msgspec.Raw(b"null")
    epochs: msgspec.Raw = msgspec.Raw(b"null")
    model: str | None = None
    level: float | None = None
    levels: list[float] | None = None
    score: bool = False


# By depth, the decoders for numbers, rows or chunks: without nulls, and with.
_WHOLE: dict[int, tuple[Any, Any]] = {
    1: (msgspec.json.Decoder(_Columns[float]), msgspec.json.Decoder(_Columns[float | None])),
    2: (msgspec.json.Decoder(_Columns[list[float]]), msgspec.json.Decoder(_Columns[list[float | None]])),
    3: (
        msgspec.json.Decoder(_Columns[list[list[float]]]),
        msgspec.json.Decoder(_Columns[list[list[float | None]]]),
    ),
}
_SLICE: dict[int, tuple[Any, Any]] = {
    1: (msgspec.json.Decoder(list[float]), msgspec.json.Decoder(list[float | None])),
    2: (msgspec.json.Decoder(list[list[float]]), msgspec.json.Decoder(list[list[float | None]])),
    3: (msgspec.json.Decoder(list[list[list[float]]]), msgspec.json.Decoder(list[list[list[float | None]]])),
}
_decode_raw = msgspec.json.Decoder(_RawColumns).decode
_decode_item = msgspec.json.Decoder(float | list[float | list[float | None] | None] | None).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_values = msgspec.json.Decoder(list[Any] | None).decode


def decode(body: bytes, limits: BulkLimits) -> BulkRequest:
    """Decode a request.

    Raises
    ------
    Malformed, Unprocessable, TooLarge : the whole request is refused
    """
    return last_of(decode_in_slices(body, limits))


def decode_in_slices(body: bytes, limits: BulkLimits) -> Generator[None, None, BulkRequest]:
    """Decode a request, with a pause after each slice of a large one.

    Raises
    ------
    Malformed, Unprocessable, TooLarge : the whole request is refused
    """
    body = body.removeprefix(BYTE_ORDER_MARK)
    if len(body) > SMALL_BODY_BYTES and body.count(b",") > MAX_NUMBERS:
        raise TooLarge(f"a request has at most {MAX_NUMBERS} numbers", limit=MAX_NUMBERS)
    opening = OPENING.search(body)
    depth = opening[1].count(b"[") if opening else 1
    if len(body) <= LARGE_BODY_BYTES:
        request = _decode_whole(body, depth, limits)
        if request is not None:
            return request
    return (yield from _decode_slices(_raw_columns(body), depth, limits))


def encode(answer: BulkAnswer, request: BulkRequest) -> bytes:
    """Encode an answer; null in place of what was refused."""
    return orjson.dumps(dict(_answer_columns(answer, request)), option=answers.ARRAYS)


def encode_in_slices(answer: BulkAnswer, request: BulkRequest) -> Generator[None, None, bytes]:
    """Encode an answer, with a pause after each column."""
    columns: list[bytes] = []
    for name, column in _answer_columns(answer, request):
        text = orjson.dumps(column, option=answers.ARRAYS)
        columns.append(b"%b:%b" % (orjson.dumps(name), text))
        yield
    return b"{%b}" % b",".join(columns)


# A request as a whole.


def _decode_whole(body: bytes, depth: int, limits: BulkLimits) -> BulkRequest | None:
    """The request; None where a chunk is not like the others, or is not valid."""
    try:
        columns, gaps = _with_or_without_gaps(_WHOLE[depth], body)
        sessions = _read_names(columns.sessions, limits)
    except DECODE_ERRORS:
        return None
    _check_lengths(
        len(sessions), limits, observations=columns.observations, at=columns.at, epochs=columns.epochs
    )
    arrays = _arrays(columns.observations, depth)
    if arrays is None or (columns.at is not None and not _are_positions(columns.at)):
        return None
    epochs = None
    if columns.epochs is not None:
        epochs = [0 if text is None else parse_epoch(text) for text in columns.epochs]
    preconditions = precondition_columns(columns.at, epochs)
    job = AdvanceMany(sessions, *arrays, *preconditions, validate_model_name(columns.model))
    job.options = _options(columns, gaps=gaps)
    return build_request(job, limits, depth)


def _read_names(text: msgspec.Raw, limits: BulkLimits) -> SessionList:
    """The column of session ids, or of other strings."""
    data = bytes(text)
    return read_json_list(data, limits.sessions) or SessionList(_decode_names(data))


def _with_or_without_gaps(decoders: Sequence[Any], text: bytes) -> tuple[Any, bool]:
    """The value of this text, and whether nulls may be among its numbers."""
    plain, gapped = decoders
    try:
        return plain.decode(text), False
    except msgspec.ValidationError as error:
        if "`null`" not in str(error):
            raise
        return gapped.decode(text), True


def _check_lengths(count: int, limits: BulkLimits, **columns: Sequence[Any] | None) -> None:
    check_session_count(count, limits)
    for name, column in columns.items():
        if column is not None:
            check_column_length(name, len(column), count)


def _are_positions(at: Sequence[int | None]) -> bool:
    positions = [position for position in at if position is not None]
    return not positions or (min(positions) >= 0 and max(positions) <= MAX_POSITION)


def _arrays(observations: list[Any], depth: int) -> tuple[Numbers, Ints] | None:
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
    numbers: Numbers = exact
    if not (np.abs(exact) > MAX_EXACT_FLOAT32).any():
        numbers = exact.astype(np.float32)
    elif (np.abs(exact) > MAX_FLOAT32).any():
        return None
    return (numbers.reshape(-1, width), lengths) if width else None


def _options(
    columns: _Columns[Any] | _RawColumns, *, gaps: bool, inputs: Mapping[str, Numbers] | None = None
) -> ChunkOptions | None:
    levels = chunks.validate_levels(columns.levels or [])
    needed = gaps or columns.score or columns.level is not None or inputs is not None or bool(levels)
    return ChunkOptions(columns.level, columns.score, gaps, inputs=inputs, levels=levels) if needed else None


# A request in slices.


def _raw_columns(body: bytes) -> _RawColumns:
    """The columns, with anything in them.

    Raises
    ------
    Malformed, Unprocessable
    """
    try:
        return _decode_raw(body)
    except msgspec.ValidationError as error:
        raise body_errors.decode_error(body, error) from None
    except DECODE_ERRORS as error:
        # NaN and Infinity are not JSON but are sent: as strings they refuse only the chunk that they are in.
        quoted = body
        for token in NON_FINITE:
            quoted = token.sub(rb'"\g<0>"', quoted)
        try:
            return _decode_raw(quoted)
        except DECODE_ERRORS:
            raise body_errors.decode_error(b"", error) from None


def _decode_slices(
    columns: _RawColumns, depth: int, limits: BulkLimits
) -> Generator[None, None, BulkRequest]:
    """The request: a job for each width, and the errors of the other chunks."""
    sessions, valid = _names(columns.sessions, limits)
    positions, tokens = _column("at", columns.at, limits), _column("epochs", columns.epochs, limits)
    count = len(sessions)
    texts, is_named = _chunk_texts(columns, count, limits)
    depth = 3 if is_named else depth
    _check_lengths(count, limits, observations=texts, at=positions, epochs=tokens)
    model = validate_model_name(columns.model)
    errors: dict[int, CarryoverError] = {}
    arrays: dict[int, Numbers | dict[str, Numbers]] = {}
    depths = [depth] * count
    at, epochs = [-1] * count, [0] * count
    start = 0
    while start < count:
        part = _slice(texts, start)
        decoded = None if is_named else _decode_slice(part, depth, limits)
        for i, text in enumerate(part, start):
            try:
                if not valid:
                    validate_session_id(_text(sessions[i], "a session id"))
                if positions is not None and positions[i] is not None:
                    at[i] = _position(positions[i])
                if tokens is not None and tokens[i] is not None:
                    epochs[i] = parse_epoch(_text(tokens[i], "an epoch"))
                if decoded is not None:
                    arrays[i] = decoded[i - start]
                elif is_named:
                    arrays[i] = named.decode_chunk(text, limits)
                else:
                    arrays[i], depths[i] = _decode_chunk(text, limits)
            except CarryoverError as error:
                errors[i] = error
        start += len(part)
        yield
    jobs = build_jobs(sessions, arrays, at, epochs, model)
    for _, job in jobs:
        inputs = None if job.options is None else job.options.inputs
        job.options = _options(columns, gaps=bool(np.isnan(job.observations).any()), inputs=inputs)
    return BulkRequest(count, jobs, errors, depths, named=is_named)


def _chunk_texts(
    columns: _RawColumns, count: int, limits: BulkLimits
) -> tuple[Sequence[msgspec.Raw | bytes], bool]:
    """The JSON of each session's chunk, and whether it is an object of its inputs by name.

    Raises
    ------
    Unprocessable, TooLarge
    """
    if columns.inputs is not None:
        if columns.observations is not None:
            raise Unprocessable("a request has observations or inputs, not both", field="inputs")
        return named.chunk_texts(columns.inputs, count, limits), True
    if columns.observations is None:
        raise Unprocessable("the request has no observations", field="observations")
    return columns.observations, False


def _names(text: msgspec.Raw, limits: BulkLimits) -> tuple[Sequence[Any], bool]:
    """The column of session ids, with anything in it, and whether all are valid."""
    try:
        sessions = _read_names(text, limits)
        return sessions, sessions.spans is not None
    except DECODE_ERRORS:
        return _column("sessions", text, limits) or (), False


def _column(name: str, text: msgspec.Raw, limits: BulkLimits) -> list[Any] | None:
    """A column with anything in it; None for null."""
    data = bytes(text)
    if len(data) > SMALL_BODY_BYTES + MAX_ENTRY_BYTES * limits.sessions:
        raise TooLarge(f"{name} has too many bytes", limit=MAX_ENTRY_BYTES * limits.sessions)
    try:
        column: list[Any] | None = _decode_values(data)
    except msgspec.ValidationError as error:
        raise Unprocessable(f"{name}: {error}", field=name) from None
    except DECODE_ERRORS as error:
        raise body_errors.decode_error(b"", error) from None
    return column


def _slice(observations: Sequence[msgspec.Raw | bytes], start: int) -> list[bytes]:
    """The next items, up to `SLICE_BYTES` and at least one."""
    part: list[bytes] = []
    size = 0
    for item in islice(observations, start, None):
        text = bytes(item)
        size += len(text)
        if part and size > SLICE_BYTES:
            break
        part.append(text)
    return part


def _decode_slice(part: Sequence[bytes], depth: int, limits: BulkLimits) -> list[Numbers] | None:
    """Arrays of chunks, [steps, inputs] each; None where a chunk is not like the others, or is not valid."""
    try:
        items, _ = _with_or_without_gaps(_SLICE[depth], b"[%b]" % b",".join(part))
    except DECODE_ERRORS:
        return None
    arrays = _arrays(items, depth)
    if arrays is None or arrays[1].min() < 1 or arrays[1].max() > limits.chunk.observations:
        return None
    return np.split(arrays[0], np.cumsum(arrays[1])[:-1])


def _decode_chunk(text: bytes, limits: BulkLimits) -> tuple[Numbers, int]:
    """[steps, inputs] of a number, a row or a list of rows, and its depth."""
    try:
        item = _decode_item(text)
    except msgspec.ValidationError as error:
        row, column = (int(index) for index in (*INDEX.findall(str(error)), 0, 0)[:2])
        raise body_errors.invalid_number_error(row, column, "is not a number") from None
    except DECODE_ERRORS as error:
        raise Unprocessable(f"the observations are not numbers: {error}") from None
    depth = 1 if not isinstance(item, list) else 3 if not item or isinstance(item[0], list) else 2
    rows: Any = item if depth == 3 else [item] if depth == 2 else [[item]]
    return chunks.validate_chunk(rows, NO_FIELDS, limits.chunk, gaps=True).observations, depth


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Unprocessable(f"{what} must be a string")
    return value


def _position(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unprocessable("at must be a whole number", field="at")
    return chunks.validate_position(value) or 0


# Encoding an answer.


def _answer_columns(answer: BulkAnswer, request: BulkRequest) -> Iterator[tuple[str, Any]]:
    """Name and values of each column; each is made when it is needed."""
    refused = sorted(answer.errors)
    positions: Any = answer.positions
    yield "positions", _with_nulls(positions, refused) if refused else np.ascontiguousarray(positions)
    yield "epochs", orjson.Fragment(_epoch_tokens(answer.epochs, refused))
    if len(answer.ports) > 1:
        yield "outputs", named.outputs(answer, request.depths)
    else:
        yield "predictions", _predictions(answer, request.depths)
    yield "replayed", answer.replayed
    quantiles = answer.quantiles
    for name, arrays in answer.extra_outputs.items():
        if not name.startswith(QUANTILE):
            yield name, _sparse(name, arrays, request)
    if quantiles:
        yield "quantiles", {name: _sparse(name, arrays, request) for name, arrays in quantiles.items()}
    yield "errors", {str(i): problem(error)[1] for i, error in answer.errors.items()}


def _predictions(answer: BulkAnswer, depths: int | Sequence[int]) -> Any:
    """The predictions, nested as deep as the observations were."""
    numbers, outputs = np.ascontiguousarray(answers.json_numbers(answer.predictions)), answer.outputs
    has_frames = COVERS in answer.extra_outputs  # any number of them, whatever the chunks were
    if isinstance(depths, int) and isinstance(outputs, int) and not answer.errors and not has_frames:
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
    depths = 3 if has_frames else depths
    return _each_prediction(
        answer, numbers, [depths] * len(answer.steps) if isinstance(depths, int) else depths
    )


def _each_prediction(answer: BulkAnswer, numbers: AnyArray, depths: Sequence[int]) -> list[Any]:
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


def _sparse(name: str, arrays: dict[int, Numbers], request: BulkRequest) -> list[Any]:
    """A further output, nested as deep as the predictions; null for the chunks that do not have it."""
    column: list[Any] = [None] * request.count
    for i, numbers in arrays.items():
        depth = request.depths if isinstance(request.depths, int) else request.depths[i]
        rows: Any = answers.output_array(name, numbers, flat=False)
        if name in answers.OF_SAMPLES:
            column[i] = rows
            continue
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
