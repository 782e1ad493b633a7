"""The ways into Carryover that carry many sessions: bulk requests and sockets, as plans for the generator."""

from __future__ import annotations

import random
from dataclasses import dataclass

import msgspec

from benchmarks.binary_layout import BINARY, decode_bulk, decode_message, encode_bulk, encode_message
from benchmarks.dialects import HOST, column, post, predictions_of
from benchmarks.socket_load import Conversation, Plan
from benchmarks.streams import CYCLE, Array, Stream

CYCLE_INDICES = (*range(1, CYCLE), 0)
"""The opening request has sent turn 0 already."""


ORDERS = 16
"""Cycles of a connection that names its sessions in another order each time."""


@dataclass(frozen=True)
class Way:
    """How many sessions share a connection, in one request or not, and its messages in flight."""

    sessions: int = 1
    window: int = 1
    bulk: bool = False


WAYS = {
    "http": Way(),
    "bulk-json": Way(sessions=1000, bulk=True),
    "bulk-binary": Way(sessions=1000, bulk=True),
    "mixed-json": Way(sessions=1000, bulk=True),  # named in another order in every request
    "mixed-binary": Way(sessions=1000, bulk=True),
    "socket-json": Way(),
    "socket-binary": Way(),
    "pipelined-json": Way(window=8),
    "pipelined-binary": Way(window=8),
    "shared-json": Way(sessions=64, window=64),
    "shared-binary": Way(sessions=64, window=64),
}


def chunks_per_request(way: str) -> int:
    """Return how many sessions' chunks one request of this way carries."""
    return WAYS[way].sessions if WAYS[way].bulk else 1


def in_flight(way: str, connections: int) -> int:
    """Return how many messages a run may have under way when its clock stops."""
    return WAYS[way].window * connections


def plan_of(way: str, port: int, streams: list[Stream], seconds: float) -> Plan:
    """Return the generator's plan; the streams are dealt out to connections in order."""
    share = WAYS[way].sessions
    groups = [streams[start : start + share] for start in range(0, len(streams), share)]
    kind, form = way.split("-")
    converse = {"bulk": _bulk, "mixed": _mixed, "socket": _socket, "pipelined": _socket, "shared": _shared}[
        kind
    ]
    conversations = [converse(group, form) for group in groups]
    protocol = "http" if WAYS[way].bulk else "text" if form == "json" else "binary"
    must, must_not = (b'"predictions"', b'"title"') if form == "json" else (b"", b'"title"')
    return Plan(HOST, port, protocol, conversations, seconds, WAYS[way].window, must, must_not)  # type: ignore[arg-type]


def first_predictions(way: str, answers: list[list[bytes]], streams: list[Stream]) -> dict[str, Array]:
    """Return the predictions [steps] in the first answer for each session of a run."""
    share = WAYS[way].sessions
    found: dict[str, Array] = {}
    for place, payloads in enumerate(answers):
        owners = [stream.session for stream in streams[place * share : (place + 1) * share]]
        for payload in payloads:
            for session, predictions in _decoded(way, payload, owners):
                found.setdefault(session, predictions)
    return found


def _decoded(way: str, payload: bytes, owners: list[str]) -> list[tuple[str, Array]]:
    if way in ("bulk-binary", "mixed-binary"):
        return list(zip(owners, decode_bulk(payload), strict=True))
    if WAYS[way].bulk:
        rows = msgspec.json.decode(payload)["predictions"]
        return [(session, predictions_of(row)) for session, row in zip(owners, rows, strict=True)]
    if way.endswith("binary"):
        session, predictions = decode_message(payload)
        return [(session or owners[0], predictions)]
    answer = msgspec.json.decode(payload)
    return [(answer["session"], predictions_of(answer["predictions"]))]


def _bulk(streams: list[Stream], form: str) -> Conversation:
    return Conversation("/observations", [_bulk_request(streams, index, form) for index in CYCLE_INDICES])


def _mixed(streams: list[Stream], form: str) -> Conversation:
    orders = random.Random(1)
    first, *rest = CYCLE_INDICES * ORDERS
    mixed = [_bulk_request(orders.sample(streams, len(streams)), index, form) for index in rest]
    return Conversation(
        "/observations", [_bulk_request(streams, first, form), *mixed]
    )  # the first is compared


def _bulk_request(streams: list[Stream], index: int, form: str) -> bytes:
    sessions = [stream.session for stream in streams]
    chunks = [stream.chunk(index) for stream in streams]
    if form == "binary":
        return post("/observations", encode_bulk(sessions, chunks), BINARY)
    rows = [column(chunk) if len(chunk) > 1 else float(chunk[0]) for chunk in chunks]
    return post("/observations", msgspec.json.encode({"sessions": sessions, "observations": rows}))


def _socket(streams: list[Stream], form: str) -> Conversation:
    (stream,) = streams
    messages = [_message(None, stream.chunk(index), form) for index in CYCLE_INDICES]
    return Conversation(f"/sessions/{stream.session}/stream", messages)


def _shared(streams: list[Stream], form: str) -> Conversation:
    messages = [
        _message(stream.session, stream.chunk(index), form) for index in CYCLE_INDICES for stream in streams
    ]
    return Conversation("/stream", messages)


def _message(session: str | None, chunk: Array, form: str) -> bytes:
    if form == "binary":
        return encode_message(session, chunk)
    named = {} if session is None else {"session": session}
    return msgspec.json.encode(named | {"observations": column(chunk)})
