"""The JSON form: `{"sessions": [...], "observations": [...], "at"?, "epochs"?, "model"?}`, a column each.

The depth of the numbers says what they are, and their predictions are answered just as deep:

    "observations": [0.1, 0.2]              one number each: one observation of a model with one input
    "observations": [[0.1, 7], [0.2, 8]]    one row each: one observation
    "observations": [[[0.1], [0.2]], ...]   one list of rows each: a chunk

They may differ from one session to the next. Requests that do not, and in which nothing is wrong, are
decoded without a look at the single chunk; the others are looked at one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import orjson

from app.api.errors import problem
from app.codec import chunks as wire
from app.codec.bulk.request import BulkLimits, Request, check_column, check_count, claims, request
from app.codec.bulk.session_lists import roster
from app.errors import CarryoverError, Malformed, TooLarge, Unprocessable
from app.jobs.answers import AdvancedMany, epoch_of
from app.jobs.jobs import AdvanceMany
from app.jobs.options import Extras
from app.jobs.session_list import Roster
from app.session.rows import Epochs, Floats, Ints

CONTENT_TYPE = "application/json"
NOTHING = wire.Besides()
MOST_NUMBERS = 1_000_000  # in one request: more would take the parser a tenth of a second
OPENING = re.compile(rb'"observations"\s*:\s*(\[(?:\s*\[){0,2})')


class _Columns(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    sessions: msgspec.Raw
    at: list[int | None] | None = None
    epochs: list[str | None] | None = None
    model: str | None = None
    level: float | None = None
    score: bool = False


class _Numbers(_Columns):
    observations: list[float]


class _Rows(_Columns):
    observations: list[list[float]]


class _Chunks(_Columns):
    observations: list[list[list[float]]]


class _Anything(msgspec.Struct, forbid_unknown_fields=True):
    sessions: list[Any]
    observations: list[Any]
    at: list[Any] | None = None
    epochs: list[Any] | None = None
    model: str | None = None
    level: float | None = None
    score: bool = False


_DECODERS = {
    depth: msgspec.json.Decoder(kind).decode for depth, kind in enumerate((_Numbers, _Rows, _Chunks), 1)
}
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_anything = msgspec.json.Decoder(_Anything).decode


def decode(body: bytes, limits: BulkLimits) -> Request:
    """The request in this JSON.

    Raises
    ------
    Malformed, Unprocessable, TooLarge : nothing of it can be done
    """
    if len(body) > wire.SMALL_BODY and body.count(b",") > MOST_NUMBERS:
        raise TooLarge(f"a request has at most {MOST_NUMBERS} numbers", limit=MOST_NUMBERS)
    opening = OPENING.search(body)
    depth = opening[1].count(b"[") if opening else 1
    try:
        told = _DECODERS[depth](body)
        sessions = roster(bytes(told.sessions), _decode_names, limits.sessions)
    except wire.UNDECODABLE:
        return _one_by_one(_anything(body), limits)
    _check_columns(told, len(sessions), limits)
    arrays = _arrays(told.observations, depth)
    epochs = None if told.epochs is None else [0 if one is None else epoch_of(one) for one in told.epochs]
    if arrays is None or (told.at is not None and not _are_positions(told.at)):
        return _one_by_one(_anything(body), limits)
    columns = AdvanceMany(sessions, *arrays, *claims(told.at, epochs), told.model)
    columns.extras = _extras(told, columns)
    return request(columns, limits, depth)


def encode(answer: AdvancedMany, asked: Request) -> bytes:
    """The answer as JSON; None in place of what was refused."""
    refused = sorted(answer.errors)
    told: dict[str, Any] = {
        "positions": _holed(answer.positions, refused) if refused else np.ascontiguousarray(answer.positions),
        "epochs": orjson.Fragment(_tokens(answer.epochs, refused)),
        "predictions": _predictions(answer, asked.depths),
        "replayed": answer.replayed,
        **{name: _sparse(name, columns, asked) for name, columns in answer.findings.items()},
        "errors": {str(i): problem(error)[1] for i, error in answer.errors.items()},
    }
    return orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)


def _check_columns(told: Any, count: int, limits: BulkLimits) -> None:
    check_count(count, limits)
    for name in ("observations", "at", "epochs"):
        column = getattr(told, name)
        if column is not None:
            check_column(name, len(column), count)


def _are_positions(at: Sequence[int | None]) -> bool:
    told = [one for one in at if one is not None]
    return not told or (min(told) >= 0 and max(told) <= wire.FURTHEST)


def _arrays(told: list[Any], depth: int) -> tuple[Floats, Ints] | None:
    """Observations [total, inputs] and lengths [n]; None when one of them needs a closer look."""
    rows = told
    lengths = np.ones(len(told), np.int64)
    if depth == 3:
        lengths = np.fromiter(map(len, told), np.int64, len(told))
        rows = list(chain.from_iterable(told))
    width = 1
    if depth > 1:
        widths = set(map(len, rows))
        if len(widths) != 1:
            return None
        width = widths.pop()
        rows = list(chain.from_iterable(rows))
    exact = np.array(rows, np.float64)
    # Written so that a NaN, too, is refused: no comparison with it holds.
    if not width or not (np.abs(exact).max() <= wire.LARGEST):
        return None
    return exact.astype(np.float32).reshape(-1, width), lengths


def _anything(body: bytes) -> _Anything:
    """The columns, whatever is in them.

    Raises
    ------
    Malformed, Unprocessable
    """
    try:
        return _decode_anything(body)
    except msgspec.ValidationError as error:
        raise wire.complaint(body, error) from None
    except wire.UNDECODABLE as error:
        try:
            # Takes NaN and Infinity, which JSON does not know and people send: theirs alone is refused.
            return msgspec.convert(json.loads(body), _Anything)
        except (ValueError, RecursionError):
            raise Malformed(f"the body is not JSON: {error}") from None


def _one_by_one(told: _Anything, limits: BulkLimits) -> Request:
    """The request, each chunk looked at alone: jobs of one width each, and what is wrong with the rest."""
    count = len(told.sessions)
    _check_columns(told, count, limits)
    errors: dict[int, CarryoverError] = {}
    chunks: dict[int, Floats] = {}
    at, epochs = [-1] * count, [0] * count
    for i in range(count):
        try:
            wire.session_id(_text(told.sessions[i], "a session id"))
            at[i] = -1 if told.at is None or told.at[i] is None else _position(told.at[i])
            if told.epochs is not None and told.epochs[i] is not None:
                epochs[i] = epoch_of(_text(told.epochs[i], "an epoch"))
            chunks[i] = _chunk(told.observations[i], limits)
        except CarryoverError as error:
            errors[i] = error
    jobs = []
    for width in sorted({chunk.shape[1] for chunk in chunks.values()}):
        which = [i for i, chunk in chunks.items() if chunk.shape[1] == width]
        some = [chunks[i] for i in which]
        job = AdvanceMany(
            Roster([told.sessions[i] for i in which]),
            np.concatenate(some),
            np.array([len(chunk) for chunk in some]),
            *claims([at[i] for i in which], [epochs[i] for i in which]),
            told.model,
        )
        job.extras = _extras(told, job)
        jobs.append((np.array(which), job))
    return Request(count, jobs, errors, [_depth(chunk) for chunk in told.observations])


def _extras(told: _Columns | _Anything, columns: AdvanceMany) -> Extras | None:
    gaps = isinstance(told, _Anything) and bool(np.isnan(columns.observations).any())
    return Extras(told.level, told.score, gaps) if gaps or told.score or told.level is not None else None


def _chunk(told: Any, limits: BulkLimits) -> Floats:
    depth = _depth(told)
    rows = told if depth == 3 else [told] if depth == 2 else [[told]]
    for row, numbers in enumerate(rows):
        for column, number in enumerate(numbers if isinstance(numbers, list) else [numbers]):
            if isinstance(number, bool) or not isinstance(number, int | float | None) or number != number:
                raise Unprocessable(f"row {row}, column {column} is not a number", row=row, column=column)
    try:
        return wire.checked(rows, NOTHING, limits.chunk, gaps=True).observations
    except OverflowError:
        raise Unprocessable("a number is too large for a float32") from None


def _depth(told: Any) -> int:
    if not isinstance(told, list):
        return 1
    return 3 if any(isinstance(row, list) for row in told) or not told else 2


def _text(told: Any, what: str) -> str:
    if not isinstance(told, str):
        raise Unprocessable(f"{what} is a text, not {told!r:.40}")
    return told


def _position(told: Any) -> int:
    if isinstance(told, bool) or not isinstance(told, int):
        raise Unprocessable(f"at is a whole number, not {told!r:.40}", field="at")
    return wire.checked_at(told) or 0


def _predictions(answer: AdvancedMany, depths: int | Sequence[int]) -> Any:
    """The predictions as deep as the observations were."""
    numbers, outputs = np.ascontiguousarray(answer.numbers), answer.outputs
    if isinstance(depths, int) and isinstance(outputs, int) and not answer.errors:
        if depths == 3:
            steps = int(answer.steps[0])
            if (answer.steps == steps).all():
                return numbers.reshape(-1, steps, outputs)
        elif outputs == 1:
            # orjson writes a flat array several times sooner than one of rows of one number.
            flat = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
            return orjson.Fragment(flat if depths == 1 else b"[" + flat.replace(b",", b"],[") + b"]")
        else:
            return numbers.reshape(-1, outputs)
    return _each(answer, numbers, [depths] * len(answer.steps) if isinstance(depths, int) else depths)


def _each(answer: AdvancedMany, numbers: Floats, depths: Sequence[int]) -> list[Any]:
    counts = answer.steps * answer.outputs
    ends = np.cumsum(counts).tolist()
    widths = np.broadcast_to(answer.outputs, counts.shape).tolist()
    told: list[Any] = []
    for i, (count, end, width, depth) in enumerate(zip(counts.tolist(), ends, widths, depths, strict=True)):
        if i in answer.errors:
            told.append(None)
            continue
        some = numbers[end - count : end]
        told.append(some.reshape(-1, width) if depth == 3 else some if depth == 2 or count > 1 else some[0])
    return told


def _sparse(name: str, columns: dict[int, Floats], asked: Request) -> list[Any]:
    """What is told beside the predictions of some chunks, as deep as they; null for the others."""
    told: list[Any] = [None] * asked.count
    for i, numbers in columns.items():
        depth = asked.depths if isinstance(asked.depths, int) else asked.depths[i]
        rows = wire.written(name, numbers, flat=False)
        told[i] = rows if depth == 3 else rows[0] if depth == 2 or rows.ndim == 1 else rows[0, 0]
    return told


def _holed(column: Ints, refused: Sequence[int]) -> list[int | None]:
    told: list[int | None] = column.tolist()
    for i in refused:
        told[i] = None
    return told


def _tokens(epochs: Epochs, refused: Sequence[int]) -> bytes:
    """Epochs as a JSON list of 16 hexadecimal digits each, written without a look at the single one."""
    text = np.full((len(epochs), 19), ord('"'), np.uint8)
    digits = epochs.astype(">u8").tobytes().hex().encode()
    text[:, 1:17] = np.frombuffer(digits, np.uint8).reshape(-1, 16)
    text[:, 18] = ord(",")
    for i in refused:
        text[i, :18] = np.frombuffer(b"null".ljust(18), np.uint8)
    return b"[" + text.tobytes()[:-1] + b"]"
