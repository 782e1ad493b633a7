"""Every request that is made, and every answer that is read: the one place that knows the server's JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from carryover.effects import Reply, Request
from carryover.errors import NotCarryover
from carryover.numbers import Chunk, like
from carryover.values import AHEAD, STEPWISE, Answer, Forecast

STATE = "application/octet-stream"
NUMBERS = frozenset(STEPWISE + AHEAD)


@dataclass(slots=True)
class Cursor:
    """Where a session is, as far as this client knows: what numbers its chunks.

    position : None until the server was asked
    epoch : None for a session that is not there yet
    created_with : fields of `POST /sessions`, for a session that its first chunk would create otherwise
    model_told : the server has agreed to the model
    """

    session: str
    model: str | None = None
    created_with: Mapping[str, Any] | None = None
    position: int | None = None
    epoch: str | None = None
    model_told: bool = False

    def moved(self, told: Mapping[str, Any] | Answer) -> None:
        """Take over what an answer says."""
        if isinstance(told, Answer):
            self.position, self.epoch, self.model = told.position, told.epoch, told.model or self.model
        else:
            self.position, self.epoch, self.model = told["position"], told["epoch"], told["model"]
        self.model_told = True

    def lost(self) -> None:
        """Ask the server before the next chunk."""
        self.position, self.epoch = None, None

    @property
    def path(self) -> str:
        """`.` and `..` are session ids, and steps to a URL: written out."""
        dotted = set(self.session) == {"."}
        return "/sessions/" + (self.session.replace(".", "%2E") if dotted else quote(self.session, safe=":"))

    def claims(self) -> dict[str, Any]:
        """`at` and `epoch`, as far as they are known."""
        told = {"at": self.position, "epoch": self.epoch}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a chunk's answer shall hold beside the predictions."""

    horizon: int = 0
    level: float | None = None
    score: bool = False

    @property
    def plain(self) -> bool:
        """Whether a binary message can say it."""
        return self.level is None and not self.score


def adopted(cursors: dict[str, Cursor], id: str, model: str | None, options: dict[str, Any]) -> Cursor:
    """The one cursor of a session, made where there is none yet."""
    cursor = cursors.setdefault(id, Cursor(id, model))
    if model is not None and model != cursor.model:
        cursor.model, cursor.model_told = model, False
    if options:
        cursor.created_with = options
    return cursor


# Requests.


def chunk_text(chunk: Chunk, at: int | None, epoch: str | None, model: str | None, wanted: Wanted) -> str:
    """A chunk's body: of a request, or of a socket's text message."""
    parts = [f'"skip":{chunk.skip}' if chunk.skip else f'"observations":{chunk.text()}']
    if at is not None:
        parts.append(f'"at":{at}')
    if epoch is not None:
        parts.append(f'"epoch":"{epoch}"')
    if model is not None:
        parts.append(f'"model":{json.dumps(model)}')
    if wanted.horizon:
        parts.append(f'"horizon":{wanted.horizon}')
    if wanted.level is not None:
        parts.append(f'"level":{wanted.level}')
    if wanted.score:
        parts.append('"score":true')
    return "{" + ",".join(parts) + "}"


def observe(cursor: Cursor, chunk: Chunk, wanted: Wanted) -> Request:
    """`POST /sessions/{id}/observations`."""
    model = None if cursor.model_told else cursor.model
    text = chunk_text(chunk, cursor.position, cursor.epoch, model, wanted)
    return Request("POST", f"{cursor.path}/observations", text.encode())


def create(cursor: Cursor) -> Request:
    """`POST /sessions`."""
    body = {"id": cursor.session, "model": cursor.model, **(cursor.created_with or {})}
    return _posting("/sessions", {name: value for name, value in body.items() if value is not None})


def inspect(cursor: Cursor) -> Request:
    """`GET /sessions/{id}`."""
    return Request("GET", cursor.path)


def reset(cursor: Cursor) -> Request:
    """`POST /sessions/{id}/reset`."""
    return _posting(f"{cursor.path}/reset", cursor.claims())


def fork(cursor: Cursor, into: str) -> Request:
    """`POST /sessions/{id}/fork`."""
    return _posting(f"{cursor.path}/fork", {"id": into} | cursor.claims())


def delete(cursor: Cursor) -> Request:
    """`DELETE /sessions/{id}`."""
    return Request("DELETE", cursor.path, query=cursor.claims())


def export(cursor: Cursor) -> Request:
    """`GET /sessions/{id}/state`."""
    return Request("GET", f"{cursor.path}/state")


def load(cursor: Cursor, state: bytes) -> Request:
    """`PUT /sessions/{id}/state`."""
    return Request("PUT", f"{cursor.path}/state", state, kind=STATE)


def forecast(cursor: Cursor, steps: int, level: float | None, future: Chunk | None) -> Request:
    """`GET /sessions/{id}/forecast`; with rows of the future a `POST`."""
    if future is not None:
        rows = f'{{"steps":{steps},"flat":true,"future":{future.text()}'
        body = rows + ("}" if level is None else f',"level":{level}}}')
        return Request("POST", f"{cursor.path}/forecast", body.encode())
    query: dict[str, str | int | float] = {"steps": steps, "flat": "true"}
    return Request(
        "GET", f"{cursor.path}/forecast", query=query if level is None else query | {"level": level}
    )


def page(after: str, model: str | None, limit: int) -> Request:
    """`GET /sessions`."""
    query: dict[str, str | int | float] = {"after": after, "limit": limit}
    return Request("GET", "/sessions", query=query if model is None else query | {"model": model})


def advance(
    cursors: Sequence[Cursor],
    chunks: Sequence[Chunk],
    ats: Sequence[int],
    model: str | None,
    wanted: Wanted,
) -> Request:
    """`POST /observations`: numbers as deep as the deepest needs."""
    single = all(len(chunk) == 1 for chunk in chunks)
    told = [_rows_text(chunk) for chunk in chunks]
    body: dict[str, Any] = {
        "sessions": [cursor.session for cursor in cursors],
        "at": list(ats),
        "epochs": [cursor.epoch for cursor in cursors],
    }
    more = {"model": model, "level": wanted.level, "score": wanted.score or None}
    body |= {name: value for name, value in more.items() if value is not None}
    # A chunk of one observation is its row: the server answers as deep as it is asked.
    column = ",".join(one[1:-1] if single else one for one in told)
    return Request("POST", "/observations", f'{json.dumps(body)[:-1]},"observations":[{column}]}}'.encode())


def _rows_text(chunk: Chunk) -> str:
    if not chunk.flat:
        return chunk.text()
    rows = Chunk(chunk.rows[:, None] if chunk.is_array else [[number] for number in chunk.rows], flat=False)
    return rows.text()


def _posting(path: str, told: Mapping[str, Any]) -> Request:
    return Request("POST", path, json.dumps(told).encode())


# Answers.


def document(reply: Reply) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises
    ------
    NotCarryover
    """
    return read(reply.body)


def read(data: bytes | str) -> dict[str, Any]:
    """A JSON object.

    Raises
    ------
    NotCarryover : it is none
    """
    try:
        told = json.loads(data)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise NotCarryover(f"the answer is no JSON object: {str(data[:80])!r}")
    return told


def answered(told: Mapping[str, Any], cursor: Cursor, chunk: Chunk) -> Answer:
    """A chunk's answer, its numbers in the kind of the chunk.

    Raises
    ------
    NotCarryover : a field is missing
    """
    raw = {name: like(value, chunk) for name, value in told.items() if name in NUMBERS and value is not None}
    try:
        return Answer(
            cursor.session,
            told.get("model") or cursor.model or "",
            told["position"],
            told["epoch"],
            told["replayed"],
            raw,
            chunk.labels,
            chunk.columns,
        )
    except KeyError as missing:
        raise NotCarryover(f"the answer to a chunk has no {missing}") from None


def forecasted(told: Mapping[str, Any]) -> Forecast:
    """A forecast, in arrays where NumPy is installed."""
    raw = {
        name: like(told[name], None) for name in ("forecast", "lower", "upper") if told.get(name) is not None
    }
    return Forecast(
        told["session"], told["model"], told["position"], raw["forecast"], raw.get("lower"), raw.get("upper")
    )
