"""The AsyncAPI document of the sockets, at `/asyncapi.json`: what OpenAPI cannot describe."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.api.document import KEY, KEY_SCHEME, LICENSE
from app.api.examples import SESSION
from app.api.socket_schemas import (
    ChunkAnswer,
    ChunkMessage,
    Events,
    Hello,
    ResetAnswer,
    ResetMessage,
    SessionHello,
    SocketProblem,
    WatchHello,
)

DESCRIPTION = (
    "Sockets carry many messages in flight. The answers of one session have the order of its messages. A "
    "browser, which cannot set headers, sends its key as the subprotocol `carryover.bearer.KEY`."
)
LAYOUT = """Numbers are little-endian.

| offset | type | {title} |
|---|---|---|
| 0 | u8 | length of the session id; 0 on `/sessions/{{id}}/stream` |
| 1 | u8 | flags: {flags} |
| 2 | u16 | numbers in {row} |
| 4 | u32 | {count} |
| 8 | i64 | {position} |
| 16 | u64 | the 16 hexadecimal digits of `epoch` as a number{no_epoch} |
| 24 | bytes | session id, then zeros to a multiple of 4 |
| ... | f32, or f64 | {rows}, row after row |
"""
BINARY_CHUNK = LAYOUT.format(
    title="chunk", flags="1 a NaN was not observed, 2 the numbers are f64", row="an observation",
    count="horizon: steps of forecast to add", position="`at`; -1: none", no_epoch="; 0: none",
    rows="observations",
)  # fmt: skip
BINARY_ANSWER = LAYOUT.format(
    title="answer", flags="1 replayed, 2 the numbers are f64", row="a prediction",
    count="predictions; what follows them is the forecast", position="position after the chunk", no_epoch="",
    rows="predictions, then the forecast",
)  # fmt: skip
BYTES = "application/octet-stream"

TEXT_MESSAGES: dict[str, type[BaseModel]] = {
    "chunk": ChunkMessage,
    "reset": ResetMessage,
    "hello": Hello,
    "sessionHello": SessionHello,
    "chunkAnswer": ChunkAnswer,
    "resetAnswer": ResetAnswer,
    "problem": SocketProblem,
    "watchHello": WatchHello,
    "events": Events,
}
BINARY_MESSAGES = {"binaryChunk": BINARY_CHUNK, "binaryAnswer": BINARY_ANSWER}
REQUESTS = ["chunk", "reset", "binaryChunk"]
ANSWERS = ["chunkAnswer", "resetAnswer", "binaryAnswer", "problem"]

# To describe another socket, add its path, what a client sends, and what it is sent.
CHANNELS: dict[str, tuple[str, str, list[str], list[str]]] = {
    "sessionStream": (
        "/sessions/{id}/stream", "Chunks of one session, and their answers.", REQUESTS,
        ["sessionHello", *ANSWERS],
    ),
    "stream": (
        "/stream", "Chunks of any sessions; each message names its session.", REQUESTS, ["hello", *ANSWERS]
    ),
    "watch": (
        "/sessions/{id}/watch", "What others send to a session; never changes it.", [],
        ["watchHello", "events"],
    ),
}  # fmt: skip


def asyncapi_document(version: str, host: str, *, secure: bool, needs_key: bool) -> dict[str, Any]:
    """The document.

    Parameters
    ----------
    version : of the server
    host : name and port at which the client sees the server
    secure : whether that is over TLS
    needs_key : whether the server has API keys
    """
    server: dict[str, Any] = {"host": host, "protocol": "wss" if secure else "ws"}
    components: dict[str, Any] = {"messages": _messages(), "schemas": _schemas()}
    if needs_key:
        server["security"] = [{"$ref": f"#/components/securitySchemes/{KEY}"}]
        components["securitySchemes"] = {KEY: KEY_SCHEME}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Carryover",
            "version": version,
            "description": DESCRIPTION,
            "license": {"name": LICENSE["name"], "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"carryover": server},
        "channels": {name: _channel(*channel) for name, channel in CHANNELS.items()},
        "operations": dict(_operations()),
        "components": components,
    }


def _channel(address: str, description: str, sent: list[str], received: list[str]) -> dict[str, Any]:
    messages = {name: {"$ref": f"#/components/messages/{name}"} for name in (*sent, *received)}
    channel: dict[str, Any] = {"address": address, "description": description, "messages": messages}
    if "{id}" in address:
        channel["parameters"] = {"id": {"description": "the session's id", "examples": [SESSION]}}
    return channel


def _operations() -> list[tuple[str, dict[str, Any]]]:
    """What the server does: it receives requests and replies, and it sends what no request asked for."""
    operations = []
    for name, (_, description, sent, received) in CHANNELS.items():
        title = name[0].upper() + name[1:]
        unasked = [message for message in received if not sent or message not in ANSWERS]
        if sent:
            reply = {"channel": _reference(name), "messages": _message_references(name, ANSWERS)}
            operations.append(
                (
                    f"receive{title}",
                    {
                        "action": "receive",
                        "summary": description,
                        "channel": _reference(name),
                        "messages": _message_references(name, sent),
                        "reply": reply,
                    },
                )
            )
        operations.append(
            (
                f"send{title}",
                {
                    "action": "send",
                    "summary": "What the server sends first." if sent else description,
                    "channel": _reference(name),
                    "messages": _message_references(name, unasked),
                },
            )
        )
    return operations


def _reference(channel: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{channel}"}


def _message_references(channel: str, names: list[str]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]


def _messages() -> dict[str, Any]:
    text = {
        name: {
            "name": name,
            "contentType": "application/json",
            "summary": " ".join((shape.__doc__ or name).split()),
            "payload": {"$ref": f"#/components/schemas/{shape.__name__}"},
        }
        for name, shape in TEXT_MESSAGES.items()
    }
    binary = {
        name: {
            "name": name,
            "contentType": BYTES,
            "summary": "One chunk in bytes." if name == "binaryChunk" else "The answer to a chunk in bytes.",
            "description": layout,
            "payload": {"type": "string", "format": "binary"},
        }
        for name, layout in BINARY_MESSAGES.items()
    }
    return text | binary


def _schemas() -> dict[str, Any]:
    shapes = [(shape, "validation") for shape in TEXT_MESSAGES.values()]
    _, schemas = models_json_schema(shapes, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    found: dict[str, Any] = schemas["$defs"]
    return found
