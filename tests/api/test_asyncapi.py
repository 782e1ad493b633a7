"""The AsyncAPI document: whole, of the sockets that there are, and its schemas fit what goes over them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import websockets
from jsonschema import Draft202012Validator

from app.api.asyncapi import ANSWERS, CHANNELS, TEXT_MESSAGES, asyncapi_document
from app.api.socket_schemas import ChunkMessage, ResetMessage
from app.codec.frames import HEADER, TextMessage
from app.protocols.upgrade import PATH
from tests.api.test_document import check_references, nodes, resolve
from tests.helpers.locked import Keys
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio

DOCUMENT = asyncapi_document("1", "localhost:8000", secure=False, needs_key=True)
EPOCH = "00000000000000ff"


@pytest.fixture
def store() -> str:
    return "memory"


def validator(message: str) -> Draft202012Validator:
    described = DOCUMENT["components"]["messages"][message]
    return Draft202012Validator(described["payload"] | {"components": DOCUMENT["components"]})


def names_of(references: list[dict[str, str]]) -> set[str]:
    return {reference["$ref"].rpartition("/")[2] for reference in references}


def test_every_reference_leads_somewhere():
    assert check_references(DOCUMENT) > 50
    assert not any("$defs" in node for node in nodes(DOCUMENT))


def test_it_has_the_parts_that_asyncapi_3_asks_for():
    assert DOCUMENT["asyncapi"].startswith("3.")
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    assert all({"host", "protocol"} <= server.keys() for server in DOCUMENT["servers"].values())
    used = set()
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert operation["messages"]
        for part in (operation, operation.get("reply", operation)):
            channel = resolve(DOCUMENT, part["channel"])
            name = part["channel"]["$ref"].rpartition("/")[2]
            assert names_of(part["messages"]) <= channel["messages"].keys()
            used |= {(name, message) for message in names_of(part["messages"])}
    for name, channel in DOCUMENT["channels"].items():
        assert ("{id}" in channel["address"]) == ("parameters" in channel)
        assert {message for channel_name, message in used if channel_name == name} == set(channel["messages"])
    described = {message for channel in DOCUMENT["channels"].values() for message in channel["messages"]}
    assert described == DOCUMENT["components"]["messages"].keys()


def test_it_describes_the_sockets_that_there_are():
    addresses = {address for address, *_ in CHANNELS.values()}
    for address in addresses:
        assert PATH.fullmatch(address.replace("{id}", "a")), address
    alternatives = PATH.pattern.replace("([^/]+)", "{id}").split("|/")
    kinds = alternatives[0].partition("(")[2].rstrip(")").split("|")
    expected = {f"/sessions/{{id}}/{kind}" for kind in kinds} | {f"/{each}" for each in alternatives[1:]}
    assert addresses == expected


def test_a_message_has_the_fields_that_the_server_reads():
    read = set(TextMessage.__struct_fields__)
    assert set(ChunkMessage.model_fields) == read
    assert set(ResetMessage.model_fields) < read


@pytest.mark.parametrize("message", ["binaryChunk", "binaryAnswer"])
def test_the_layout_of_bytes_has_the_offsets_of_the_code(message):
    described = DOCUMENT["components"]["messages"][message]["description"]
    rows = [line.split("|")[1].strip() for line in described.splitlines() if line.startswith("|")][2:]
    assert rows == ["0", "1", "2", "4", "8", "16", str(HEADER.size), "..."]


async def exchange(url: str, messages: list[dict[str, Any]]) -> list[Any]:
    """The first message of a socket, and the answers to these messages, each of which is as described."""
    async with websockets.connect(url) as socket:
        received = [json.loads(await socket.recv())]
        for message in messages:
            validator("reset" if message.get("reset") else "chunk").validate(message)
            await socket.send(json.dumps(message))
            received.append(json.loads(await socket.recv()))
    return received


CHUNK = {"observations": [[0.1], [None]], "tag": {"a": 1}}
MESSAGES = [
    CHUNK | {"horizon": 2, "at": 0},
    {"observations": [0.1, 0.2], "tag": 7},
    {"reset": True, "tag": "r"},
    {"observations": [0.1], "at": 1, "tag": None},
]
KINDS = ["chunkAnswer", "chunkAnswer", "resetAnswer", "problem"]


@pytest.mark.parametrize("path", ["/stream", "/sessions/s/stream"])
async def test_what_goes_over_a_stream_is_as_it_is_described(start_hot, path):
    names = {"session": "s"} if path == "/stream" else {}
    async with start_hot() as service:
        messages = [message | names for message in MESSAGES]
        hello, *answers = await exchange(f"ws://127.0.0.1:{service.port}{path}", messages)
    validator("hello" if names else "sessionHello").validate(hello)
    for kind, message, answer in zip(KINDS, messages, answers, strict=True):
        validator(kind).validate(answer)
        assert answer["tag"] == message["tag"]
        others = set(ANSWERS) - {kind, "binaryAnswer"}  # a schema that everything fits would say nothing
        assert not any(validator(other).is_valid(answer) for other in others), kind
    described = DOCUMENT["components"]["schemas"]
    for kind, answer in zip(KINDS[:3], answers, strict=False):
        assert answer.keys() <= described[TEXT_MESSAGES[kind].__name__]["properties"].keys()


async def test_what_a_watcher_is_sent_is_as_it_is_described(start_hot):
    async with start_hot() as service:
        url = f"ws://127.0.0.1:{service.port}/sessions/s/watch"
        async with websockets.connect(url) as socket:
            received = [json.loads(await socket.recv())]
            await service.http.post("/sessions", json={"id": "s"})
            await service.http.post("/sessions/s/observations", json={"observations": [[0.1], [None]]})
            await service.http.post("/sessions/s/reset", json={})
            await service.http.delete("/sessions/s")
            events: list[dict[str, Any]] = []
            while len(events) < 4:
                received.append(json.loads(await socket.recv()))
                events += received[-1]["events"]
    validator("watchHello").validate(received[0])
    for message in received[1:]:
        validator("events").validate(message)
    assert [event["event"] for event in events] == ["created", "chunk", "reset", "gone"]
    # An event of an unknown kind, or a chunk without its predictions, does not fit.
    chunk = next(event for event in events if event["event"] == "chunk")
    for wrong in (chunk | {"event": "moved"}, {key: chunk[key] for key in chunk if key != "predictions"}):
        assert not validator("events").is_valid({"events": [wrong]})


async def test_an_alert_that_a_watcher_is_sent_is_as_it_is_described(start_hot):
    body = {"id": "s", "model": "adaptive", "alert": {"score_above": 0.01}, "labels": {"site": "north"}}
    async with start_hot() as service:
        await service.http.post("/sessions", json=body)
        async with websockets.connect(f"ws://127.0.0.1:{service.port}/sessions/s/watch") as socket:
            validator("watchHello").validate(json.loads(await socket.recv()))
            rows = series("adaptive", 60).tolist()
            await service.http.post("/sessions/s/observations", json={"observations": rows, "score": True})
            kinds: list[str] = []
            while "alert" not in kinds:
                message = json.loads(await socket.recv())
                validator("events").validate(message)
                kinds += [event["event"] for event in message["events"]]


async def test_it_is_served_to_all_at_the_address_that_they_use(start_http, tmp_path):
    keys = Keys(tmp_path)
    keys.add("acme")
    async with start_http() as service:
        served = (await service.http.get("/asyncapi.json")).json()
        assert served["servers"]["carryover"] == {"host": "localhost", "protocol": "ws"}
    async with start_http(api_keys_file=keys.path) as service:
        answer = await service.http.get("/asyncapi.json", headers={"host": "predict.example"})
        assert answer.json()["servers"]["carryover"]["host"] == "predict.example"
        assert check_references(answer.json()) == check_references(DOCUMENT)
