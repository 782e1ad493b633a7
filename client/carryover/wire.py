"""Building requests and parsing answers. Only this module knows the server's JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import quote

from carryover.effects import Reply, Request
from carryover.errors import CarryoverError, NotCarryover, problem, redirected
from carryover.observations import Chunk, match_kind
from carryover.sse import CONTENT
from carryover.tables import parse_times
from carryover.values import (
    FORECAST_FIELDS,
    QUANTILE_FIELDS,
    SAMPLE_FIELDS,
    STEP_FIELDS,
    TIME_FIELDS,
    Answer,
    Forecast,
    History,
)

STATE = "application/octet-stream"
NUMBERS = frozenset(STEP_FIELDS + FORECAST_FIELDS) - TIME_FIELDS


@dataclass(slots=True)
class Cursor:
    """A session's position and epoch, as far as this client knows. Each chunk is sent with them.

    position : None before the first answer
    epoch : None for a session that does not exist yet
    creation_options : fields of `POST /sessions`, which then creates the session before its first chunk
    model_confirmed : the server has accepted the model
    """

    session: str
    model: str | None = None
    creation_options: Mapping[str, Any] | None = None
    position: int | None = None
    epoch: str | None = None
    model_confirmed: bool = False

    def __post_init__(self) -> None:
        # Without an id, a path names another resource: all sessions.
        if not self.session:
            raise ValueError("the session's id is empty: give it one, such as 'pump-7'")

    def update(self, answer: Mapping[str, Any] | Answer) -> None:
        """Take over position, epoch and model from an answer."""
        if isinstance(answer, Answer):
            self.position, self.epoch, self.model = answer.position, answer.epoch, answer.model or self.model
        else:
            self.position, self.epoch, self.model = answer["position"], answer["epoch"], answer["model"]
        self.model_confirmed = True

    def invalidate(self) -> None:
        """Make the client ask the server for the position before the next chunk.

        The session may be gone by then: the chunk names the model that it had.
        """
        self.position, self.epoch, self.model_confirmed = None, None, False

    @property
    def path(self) -> str:
        """The session's URL path. The ids `.` and `..` are escaped: URLs give them another meaning."""
        dotted = set(self.session) == {"."}
        return "/sessions/" + (self.session.replace(".", "%2E") if dotted else quote(self.session, safe=":"))

    def preconditions(self) -> dict[str, Any]:
        """Return `at` and `epoch`, if they are known."""
        fields = {"at": self.position, "epoch": self.epoch}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ChunkOptions:
    """What a chunk's answer contains in addition to the predictions."""

    horizon: int = 0
    level: float | None = None
    score: bool = False
    future: Chunk | None = None  # of the steps of the horizon
    levels: Sequence[float] = ()  # of the intervals whose ends are added as quantiles

    @property
    def plain(self) -> bool:
        """Whether a binary message can express it."""
        return self.level is None and not self.score and self.future is None and not self.levels


def cursor_for(cursors: dict[str, Cursor], id: str, model: str | None, options: dict[str, Any]) -> Cursor:
    """Return the session's cursor, which is created at the first call."""
    cursor = cursors.setdefault(id, Cursor(id, model))
    if model is not None and model != cursor.model:
        cursor.model, cursor.model_confirmed = model, False
    if options:
        cursor.creation_options = options
    return cursor


# Requests.


def chunk_text(
    chunk: Chunk, at: int | None, epoch: str | None, model: str | None, options: ChunkOptions
) -> str:
    """Return a chunk as JSON, for a request's body or a socket's text message."""
    parts = [f'"skip":{chunk.skip}' if chunk.skip else f'"observations":{chunk.text()}']
    if at is not None:
        parts.append(f'"at":{at}')
    if epoch is not None:
        parts.append(f'"epoch":"{epoch}"')
    if model is not None:
        parts.append(f'"model":{json.dumps(model)}')
    if options.horizon:
        parts.append(f'"horizon":{options.horizon}')
    if options.level is not None:
        parts.append(f'"level":{options.level}')
    if options.levels:
        parts.append(f'"levels":{levels_text(options.levels)}')
    if options.score:
        parts.append('"score":true')
    if chunk.timestamps is not None:
        parts.append(f'"timestamps":{json.dumps(chunk.timestamps)}')
    if options.future is not None:
        parts.append(f'"future":{options.future.text()}')
    return "{" + ",".join(parts) + "}"


def levels_text(levels: Sequence[float]) -> str:
    """Return levels as JSON."""
    return json.dumps([float(level) for level in levels])


def observe(cursor: Cursor, chunk: Chunk, options: ChunkOptions) -> Request:
    """`POST /sessions/{id}/observations`."""
    model = None if cursor.model_confirmed else cursor.model
    text = chunk_text(chunk, cursor.position, cursor.epoch, model, options)
    return Request("POST", f"{cursor.path}/observations", text.encode())


def create(cursor: Cursor) -> Request:
    """`POST /sessions`."""
    body = {"id": cursor.session, "model": cursor.model, **(cursor.creation_options or {})}
    return _post("/sessions", {name: value for name, value in body.items() if value is not None})


def inspect(cursor: Cursor) -> Request:
    """`GET /sessions/{id}`."""
    return Request("GET", cursor.path)


def reset(cursor: Cursor) -> Request:
    """`POST /sessions/{id}/reset`."""
    return _post(f"{cursor.path}/reset", cursor.preconditions())


def fork(cursor: Cursor, target: str) -> Request:
    """`POST /sessions/{id}/fork`."""
    return _post(f"{cursor.path}/fork", {"id": target} | cursor.preconditions())


def delete(cursor: Cursor) -> Request:
    """`DELETE /sessions/{id}`."""
    return Request("DELETE", cursor.path, query=cursor.preconditions())


def audio(cursor: Cursor, body: bytes, kind: str) -> Request:
    """`POST /sessions/{id}/audio`."""
    query = cursor.preconditions()
    if cursor.model is not None and not cursor.model_confirmed:
        query["model"] = cursor.model
    return Request("POST", f"{cursor.path}/audio", body, query, kind)


def export(cursor: Cursor) -> Request:
    """`GET /sessions/{id}/state`."""
    return Request("GET", f"{cursor.path}/state")


def load(cursor: Cursor, state: bytes) -> Request:
    """`PUT /sessions/{id}/state`."""
    return Request("PUT", f"{cursor.path}/state", state, kind=STATE)


def forecast(
    cursor: Cursor, steps: int, level: float | None, levels: Sequence[float], future: Chunk | None
) -> Request:
    """`GET /sessions/{id}/forecast`, or `POST` with known future inputs or several levels."""
    if future is not None or levels:
        body = f'{{"steps":{steps},"flat":true'
        body += f',"future":{future.text()}' if future is not None else ""
        body += f',"levels":{levels_text(levels)}' if levels else ""
        body += "}" if level is None else f',"level":{level}}}'
        return Request("POST", f"{cursor.path}/forecast", body.encode())
    query: dict[str, str | int | float] = {"steps": steps, "flat": "true"}
    return Request(
        "GET", f"{cursor.path}/forecast", query=query if level is None else query | {"level": level}
    )


def generate(cursor: Cursor, fields: Mapping[str, Any]) -> Request:
    """`POST /sessions/{id}/generate`."""
    named = {} if cursor.model is None or cursor.model_confirmed else {"model": cursor.model}
    return _post(f"{cursor.path}/generate", {**fields, **named, **cursor.preconditions()})


def history(cursor: Cursor, last: int | None, start: int | None, limit: int | None) -> Request:
    """`GET /sessions/{id}/history`."""
    query = {"last": last, "from": start, "limit": limit}
    given = {name: value for name, value in query.items() if value is not None}
    return Request("GET", f"{cursor.path}/history", query=given)


Order = Literal["name", "last_seen", "error", "surprise"]
"""Of a list of sessions: by id, or by a value."""


def page(
    limit: int,
    start: str = "",
    model: str | None = None,
    detail: bool = False,
    labels: Mapping[str, str] | None = None,
    order: str | None = None,
    descending: bool = False,
) -> Request:
    """`GET /sessions`. `start` is an id, or, in the order of a value, `next` of the previous page."""
    query: dict[str, Any] = {"limit": limit}
    query |= {"after" if order in (None, "name") else "cursor": start} if start else {}
    query |= {} if model is None else {"model": model}
    query |= {"detail": "true"} if detail else {}
    query |= {"label": [f"{name}:{value}" for name, value in labels.items()]} if labels else {}
    query |= {} if order is None else {"order": order}
    query |= {"descending": "true"} if descending else {}
    return Request("GET", "/sessions", query=query)


def annotate(cursor: Cursor, labels: Mapping[str, str | None] | None) -> Request:
    """`PATCH /sessions/{id}`."""
    return Request("PATCH", cursor.path, json.dumps({"labels": labels}).encode())


def advance(
    cursors: Sequence[Cursor],
    chunks: Sequence[Chunk],
    ats: Sequence[int],
    model: str | None,
    options: ChunkOptions,
) -> Request:
    """`POST /observations`. A chunk is a list of rows; if every chunk has one observation, it is a row."""
    single = all(len(chunk) == 1 for chunk in chunks)
    rows = [_rows_text(chunk) for chunk in chunks]
    body: dict[str, Any] = {
        "sessions": [cursor.session for cursor in cursors],
        "at": list(ats),
        "epochs": [cursor.epoch for cursor in cursors],
    }
    levels = [float(level) for level in options.levels] or None
    optional = {"model": model, "level": options.level, "levels": levels, "score": options.score or None}
    body |= {name: value for name, value in optional.items() if value is not None}
    # The nesting of the answer is that of the request.
    column = ",".join(text[1:-1] if single else text for text in rows)
    return Request("POST", "/observations", f'{json.dumps(body)[:-1]},"observations":[{column}]}}'.encode())


def _rows_text(chunk: Chunk) -> str:
    if not chunk.flat:
        return chunk.text()
    rows = Chunk(chunk.rows[:, None] if chunk.is_array else [[number] for number in chunk.rows], flat=False)
    return rows.text()


def _post(path: str, body: Mapping[str, Any]) -> Request:
    return Request("POST", path, json.dumps(body).encode())


# Answers.


def failure(request: Request, reply: Reply) -> CarryoverError:
    """Return the error of a reply that is not a success."""
    if reply.location is not None:
        return redirected(reply.location, request.path)
    return problem(reply.status, reply.body, reply.retry_after)


def check_stream(request: Request, reply: Reply) -> None:
    """Check that a reply begins a stream of events.

    Raises
    ------
    CarryoverError : it does not
    """
    if not reply.succeeded:
        raise failure(request, reply)
    if reply.kind is not None and not reply.kind.startswith(CONTENT):
        raise NotCarryover(f"the answer is no stream of events but {reply.kind or 'of no type'}")


def check_deleted(reply: Reply) -> None:
    """Check that a reply says that a session is deleted.

    Raises
    ------
    NotCarryover : it is something else
    """
    if reply.status != HTTPStatus.NO_CONTENT:
        raise NotCarryover(
            f"the answer to a delete has status {reply.status}, not 204: nothing may be deleted"
        )


def parse_state(reply: Reply) -> bytes:
    """Return a session's state: a safetensors file, which has the size of its JSON header in front.

    Raises
    ------
    NotCarryover : it is something else
    """
    if reply.body[8:9] != b"{":
        raise NotCarryover(f"the answer is not the state of a session: {_beginning(reply.body)!r}")
    return reply.body


def reply_object(reply: Reply) -> dict[str, Any]:
    """Parse a reply's body as a JSON object.

    Raises
    ------
    NotCarryover : it is something else
    """
    return parse_object(reply.body)


def parse_object(data: bytes | str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises
    ------
    NotCarryover : it is something else
    """
    try:
        parsed = json.loads(data)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise NotCarryover(f"the answer is not a JSON object: {_beginning(data)!r}")
    return parsed


def _beginning(data: bytes | str) -> str:
    return data[:80].decode("utf-8", "replace") if isinstance(data, bytes) else data[:80]


def parse_answer(fields: Mapping[str, Any], cursor: Cursor, chunk: Chunk) -> Answer:
    """Build the answer to a chunk, with its numbers in the chunk's type.

    Raises
    ------
    NotCarryover : a field is missing
    """
    present = {name: fields[name] for name in NUMBERS if fields.get(name) is not None}
    raw = {name: match_kind(value, chunk) for name, value in present.items()}
    raw |= {name: fields[name] for name in (*TIME_FIELDS, *SAMPLE_FIELDS) if fields.get(name) is not None}
    raw |= {name: match_kind(fields[name], chunk) for name in QUANTILE_FIELDS if fields.get(name)}
    try:
        return Answer(
            cursor.session,
            fields.get("model") or cursor.model or "",
            fields["position"],
            fields["epoch"],
            fields["replayed"],
            raw,
            chunk.labels,
            chunk.columns,
        )
    except KeyError as missing:
        raise NotCarryover(f"the answer to a chunk has no {missing}") from None


def parse_forecast(fields: Mapping[str, Any]) -> Forecast:
    """Build a forecast; its numbers are arrays if NumPy is installed."""
    values, lower, upper = (
        None if fields.get(name) is None else match_kind(fields[name], None)
        for name in ("forecast", "lower", "upper")
    )
    quantiles = {name: match_kind(ends, None) for name, ends in fields.get("quantiles", {}).items()}
    times = parse_times(fields.get("times"))
    return Forecast(
        fields["session"], fields["model"], fields["position"], values, lower, upper, times, quantiles
    )


def parse_history(fields: Mapping[str, Any]) -> History:
    """Build a history; its numbers are arrays if NumPy is installed."""
    arrays = {
        name: None if fields.get(name) is None else match_kind(fields[name], None)
        for name in ("observations", "predictions", "outputs", "lower", "upper", "scores")
    }
    return History(
        session=fields["session"],
        model=fields["model"],
        position=fields["position"],
        first=fields["from"],
        inputs=tuple(fields["inputs"]),
        targets=tuple(fields["targets"]),
        times=parse_times(fields.get("times")),
        predicted_times=parse_times(fields.get("predicted_times")),
        pieces=None if fields.get("pieces") is None else tuple(fields["pieces"]),
        **arrays,
    )
