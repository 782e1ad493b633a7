"""The request and answer format of each server: requests as whole HTTP messages, answers as values.

The layouts of Carryover's own binary forms are in `binary_layout`; this file holds everything that is JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from benchmarks.streams import Array

HOST = "127.0.0.1"
JSON = "application/json"
SESSION_IN_ANSWER = r'"session": ?"([^"]+)"'
"""A Lua pattern: which session an answer is for."""

Place = Literal["first", "middle", "last"]
"""Where in its session a request stands: some servers require it."""


@dataclass(frozen=True)
class Answer:
    """What a server said: predictions [steps], and the session's position where it tells one."""

    predictions: Array
    position: int | None


class Dialect(Protocol):
    """One server's request and answer shapes."""

    session_pattern: str
    """A Lua pattern that finds the session in an answer; empty when answers do not tell it."""

    def request(self, session: str, observations: Array, place: Place, /) -> bytes:
        """Return the HTTP request that advances a session by observations [steps]."""

    def answer(self, body: bytes) -> Answer:
        """Decode the body of a 200."""


def post(path: str, body: bytes, content_type: str = JSON) -> bytes:
    """Return a whole HTTP/1.1 POST request."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {HOST}",
        f"content-type: {content_type}",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def column(observations: Array) -> list[list[float]]:
    """Return observations [steps] as rows of one feature, with as many digits as float32 holds."""
    return [[float(f"{value:.7g}")] for value in observations]


def predictions_of(rows: Any) -> Array:
    """Return rows of one feature as a vector [steps]."""
    return np.asarray(rows, dtype=np.float64).reshape(-1)


class SessionInPath:
    """``POST /sessions/{id}/observations``: ours and the idiomatic service."""

    session_pattern = SESSION_IN_ANSWER

    def request(self, session: str, observations: Array, _: Place) -> bytes:
        body = msgspec.json.encode({"observations": column(observations)})
        return post(f"/sessions/{session}/observations", body)

    def answer(self, body: bytes) -> Answer:
        fields = msgspec.json.decode(body)
        return Answer(predictions_of(fields["predictions"]), fields["position"])


class SessionInBody(SessionInPath):
    """``POST /inference``, the session named in the body: mosec."""

    def request(self, session: str, observations: Array, _: Place) -> bytes:
        body = {"session": session, "observations": column(observations)}
        return post("/inference", msgspec.json.encode(body))


class Echo(SessionInPath):
    """The request's own body comes back: no model, no position."""

    session_pattern = ""

    def answer(self, body: bytes) -> Answer:
        return Answer(predictions_of(msgspec.json.decode(body)["observations"]), None)


class Triton:
    """KServe v2 over HTTP, sequences numbered; the session comes back as the request's id."""

    session_pattern = r'"id": ?"([^"]+)"'
    model = "sine"

    def request(self, session: str, observations: Array, place: Place) -> bytes:
        rows = [value for (value,) in column(observations)]
        ends = {"sequence_start": place == "first", "sequence_end": place == "last"}
        tensor = {"name": "observations", "shape": [1, len(rows), 1], "datatype": "FP32", "data": rows}
        body = {
            "id": session,
            "parameters": {"sequence_id": sequence_number(session)} | ends,
            "inputs": [tensor],
        }
        return post(f"/v2/models/{self.model}/infer", msgspec.json.encode(body))

    def answer(self, body: bytes) -> Answer:
        outputs = {output["name"]: output["data"] for output in msgspec.json.decode(body)["outputs"]}
        return Answer(predictions_of(outputs["predictions"]), int(outputs["POSITION"][0]))


class OpenInference(Triton):
    """The same requests to ours, which tells positions as parameters of its answers."""

    model = "bench"

    def answer(self, body: bytes) -> Answer:
        fields = msgspec.json.decode(body)
        outputs = {output["name"]: output["data"] for output in fields["outputs"]}
        return Answer(predictions_of(outputs["predictions"]), fields["parameters"]["position"])


def sequence_number(session: str) -> int:
    """Return a number for a session: this Triton answers 400 to strings as sequence ids."""
    return int.from_bytes(blake2b(session.encode(), digest_size=7).digest(), "big") + 1
