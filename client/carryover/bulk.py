"""Chunks of many sessions in one request: an answer or an error for each session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from carryover import wire
from carryover.effects import Plan, Sleep
from carryover.errors import CarryoverError, OutOfStep, Problem, Unavailable, refusal
from carryover.observations import Chunk
from carryover.plans import ABSENT, send, settle
from carryover.retry import Pauses, RetryPolicy
from carryover.tables import counted
from carryover.values import STEP_FIELDS, Answer
from carryover.wire import ChunkOptions, Cursor

UNREACHABLE_POSITION = 2**62
"""No session reaches this position. A chunk sent for it is refused, and the refusal holds the real one."""


class BulkAnswer(Mapping[str, Answer]):
    """Answers by session. Reading that of a refused session raises its error; `errors` holds all errors."""

    def __init__(self, answers: Mapping[str, Answer], errors: Mapping[str, CarryoverError]) -> None:
        self.errors = dict(errors)
        self._answers = dict(answers)

    def __getitem__(self, session: str) -> Answer:
        if session in self.errors:
            raise self.errors[session]
        return self._answers[session]

    def __iter__(self) -> Iterator[str]:
        yield from self._answers
        yield from self.errors

    def __len__(self) -> int:
        return len(self._answers) + len(self.errors)

    def __contains__(self, session: object) -> bool:
        return session in self._answers or session in self.errors

    def __repr__(self) -> str:
        return f"<Answers of {counted(len(self._answers), 'session')}, {len(self.errors)} refused>"


def advance(
    cursors: Mapping[str, Cursor],
    chunks: Mapping[str, Chunk],
    model: str | None,
    options: ChunkOptions,
    retry: RetryPolicy,
) -> Plan[BulkAnswer]:
    """Send a chunk for each session; each chunk is applied exactly once, or its error is in `errors`.

    Chunks that are refused for the moment (429, 503) are sent again, without the others.
    """
    if any(chunk.timestamps is not None for chunk in chunks.values()):
        raise ValueError("a request for many sessions has no timestamps: advance these sessions one by one")
    errors: dict[str, CarryoverError] = yield from _locate(cursors, chunks, model, retry)
    answers: dict[str, Answer] = {}
    remaining, pauses = [name for name in chunks if name not in errors], Pauses(retry)
    while remaining:
        outcomes = yield from _send(
            [cursors[name] for name in remaining], [chunks[name] for name in remaining], model, options, retry
        )
        later: dict[str, CarryoverError] = {}
        for name, outcome in zip(remaining, outcomes, strict=True):
            if isinstance(outcome, Answer):
                answers[name] = outcome
                cursors[name].update(outcome)
            else:
                (later if isinstance(outcome, Unavailable) else errors)[name] = outcome
        remaining = list(later)
        try:
            if remaining:
                yield Sleep(pauses.after(next(iter(later.values()))))
        except Unavailable:
            errors |= later
            remaining = []
    return BulkAnswer(answers, errors)


def _locate(
    cursors: Mapping[str, Cursor], chunks: Mapping[str, Chunk], model: str | None, retry: RetryPolicy
) -> Plan[dict[str, CarryoverError]]:
    """Ask for all unknown positions with one request, which cannot change a session."""
    errors: dict[str, CarryoverError] = {}
    for name in chunks:
        if _has_own_model(cursors[name], model):
            try:
                yield from settle(cursors[name], retry)
            except Problem as error:
                errors[name] = error
    unknown = [name for name in chunks if cursors[name].position is None and name not in errors]
    if not unknown:
        return errors
    parts = [chunks[name].part(0, 1) for name in unknown]
    outcomes = yield from _send(
        [cursors[name] for name in unknown], parts, model, ChunkOptions(), retry, UNREACHABLE_POSITION
    )
    for name, outcome in zip(unknown, outcomes, strict=True):
        if isinstance(outcome, OutOfStep) and outcome.position is not None:
            cursors[name].position = outcome.position
        elif isinstance(outcome, ABSENT):
            cursors[name].position = 0
        elif isinstance(outcome, Problem):
            errors[name] = outcome
    return errors


def _has_own_model(cursor: Cursor, model: str | None) -> bool:
    """Whether more was named for the session than the request says, and the server has not confirmed it."""
    if cursor.model_confirmed:
        return False
    return cursor.creation_options is not None or cursor.model not in (None, model)


def _send(
    cursors: list[Cursor],
    chunks: list[Chunk],
    model: str | None,
    options: ChunkOptions,
    retry: RetryPolicy,
    at: int | None = None,
) -> Plan[list[Answer | Problem]]:
    ats = [cursor.position or 0 if at is None else at for cursor in cursors]
    request = wire.advance(cursors, chunks, ats, model, options)
    columns = wire.reply_object((yield from send(request, retry)))
    columns["replayed"] = set(columns["replayed"])
    deep = any(len(chunk) > 1 for chunk in chunks)
    return [_outcome(columns, i, *pair, deep) for i, pair in enumerate(zip(cursors, chunks, strict=True))]


def _outcome(
    columns: Mapping[str, Any], i: int, cursor: Cursor, chunk: Chunk, deep: bool
) -> Answer | Problem:
    error = columns["errors"].get(str(i))
    if error is not None:
        return refusal(error)
    fields = {
        "position": columns["positions"][i],
        "epoch": columns["epochs"][i],
        "replayed": i in columns["replayed"],
    }
    if "outputs" in columns:
        entries = {name: column[i] for name, column in columns["outputs"].items()}
        fields["outputs"] = entries if deep else {name: [entry] for name, entry in entries.items()}
    for name in STEP_FIELDS:
        column = None if name == "outputs" else columns.get(name)
        if column is not None and column[i] is not None:
            fields[name] = _rows(column[i], deep or name in {"scores", "times"}, chunk.flat)
    quantiles = columns.get("quantiles", {}).items()
    fields["quantiles"] = {
        name: _rows(column[i], deep, chunk.flat) for name, column in quantiles if column[i] is not None
    }
    return wire.parse_answer(fields, cursor, chunk)


def _rows(numbers: Any, deep: bool, flat: bool) -> Any:
    """Return a session's entry of a column as [steps] or [steps, outputs]; if not `deep`, it is one row."""
    rows = numbers if deep else [numbers]
    if isinstance(rows, list) and flat and isinstance(rows[0], list) and len(rows[0]) == 1:
        return [row[0] for row in rows]
    return rows if isinstance(rows, list) else [rows]
