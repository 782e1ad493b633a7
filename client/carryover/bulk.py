"""Many sessions moved on by one request: the answers of those that moved, beside the errors of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from carryover import wire
from carryover.effects import Plan, Sleep
from carryover.errors import CarryoverError, OutOfStep, Problem, Unavailable, refusal
from carryover.numbers import Chunk
from carryover.plans import ABSENT, asked
from carryover.retry import Patience, Pauses
from carryover.values import STEPWISE, Answer
from carryover.wire import Cursor, Wanted

NOWHERE = 2**62
"""A position that no session is at: a chunk sent there moves nothing, and the refusal tells where it is."""


class Answers(Mapping[str, Answer]):
    """Answers by session. To look up a session that was refused raises its error; `errors` holds them all."""

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
        return f"<Answers of {len(self._answers)} sessions, {len(self.errors)} refused>"


def advance(
    cursors: Mapping[str, Cursor],
    chunks: Mapping[str, Chunk],
    model: str | None,
    wanted: Wanted,
    patience: Patience,
) -> Plan[Answers]:
    """Move all of them on, each exactly once, or not at all.

    What is refused for the moment (503) is sent again, alone; what is refused for good is in `errors`.
    """
    errors: dict[str, CarryoverError] = yield from _located(cursors, chunks, model, patience)
    answers: dict[str, Answer] = {}
    left, pauses = [name for name in chunks if name not in errors], Pauses(patience)
    while left:
        told = yield from _sent(
            [cursors[name] for name in left], [chunks[name] for name in left], model, wanted, patience
        )
        later: dict[str, CarryoverError] = {}
        for name, outcome in zip(left, told, strict=True):
            if isinstance(outcome, Answer):
                answers[name] = outcome
                cursors[name].moved(outcome)
            else:
                (later if isinstance(outcome, Unavailable) else errors)[name] = outcome
        left = list(later)
        try:
            if left:
                yield Sleep(pauses.after(next(iter(later.values()))))
        except Unavailable:
            errors |= later
            left = []
    return Answers(answers, errors)


def _located(
    cursors: Mapping[str, Cursor], chunks: Mapping[str, Chunk], model: str | None, patience: Patience
) -> Plan[dict[str, CarryoverError]]:
    """Learn the positions of those that are not known, all by one request that can move nothing."""
    unknown = [name for name in chunks if cursors[name].position is None]
    errors: dict[str, CarryoverError] = {}
    if not unknown:
        return errors
    ones = [chunks[name].part(0, 1) for name in unknown]
    told = yield from _sent([cursors[name] for name in unknown], ones, model, Wanted(), patience, NOWHERE)
    for name, outcome in zip(unknown, told, strict=True):
        if isinstance(outcome, OutOfStep) and outcome.position is not None:
            cursors[name].position = outcome.position
        elif isinstance(outcome, ABSENT):
            cursors[name].position = 0
        elif isinstance(outcome, Problem):
            errors[name] = outcome
    return errors


def _sent(
    cursors: list[Cursor],
    chunks: list[Chunk],
    model: str | None,
    wanted: Wanted,
    patience: Patience,
    at: int | None = None,
) -> Plan[list[Answer | Problem]]:
    ats = [cursor.position or 0 if at is None else at for cursor in cursors]
    request = wire.advance(cursors, chunks, ats, model, wanted)
    told = wire.document((yield from asked(request, patience)))
    told["replayed"] = set(told["replayed"])
    return [_outcome(told, i, *pair) for i, pair in enumerate(zip(cursors, chunks, strict=True))]


def _outcome(told: Mapping[str, Any], i: int, cursor: Cursor, chunk: Chunk) -> Answer | Problem:
    error = told["errors"].get(str(i))
    if error is not None:
        return refusal(error)
    one = {"position": told["positions"][i], "epoch": told["epochs"][i], "replayed": i in told["replayed"]}
    deep = isinstance(told["predictions"][i][0], list)
    for name in STEPWISE:
        found = told.get(name)
        if found is not None and found[i] is not None:
            one[name] = _rows(found[i], deep or name == "scores", chunk.flat)
    return wire.answered(one, cursor, chunk)


def _rows(numbers: Any, deep: bool, flat: bool) -> Any:
    """A session's entry of a column as [steps] or [steps, outputs]; a single observation's is one row."""
    rows = numbers if deep else [numbers]
    if isinstance(rows, list) and flat and isinstance(rows[0], list) and len(rows[0]) == 1:
        return [row[0] for row in rows]
    return rows if isinstance(rows, list) else [rows]
