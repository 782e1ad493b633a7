"""Every way to send chunks to the service, behind a common interface, so that one test can check all of them.

To add a way, write a subclass of `Way` that sends chunks, and add it to `WAYS`. All other requests (create,
reset, fork, ...) use HTTP.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from app.codec.frames import HEADER
from app.engine.engine import Engine
from models.arrays import Floats
from tests.helpers import binary


@dataclass(frozen=True)
class Reply:
    """The answer to a chunk, the same for every way. `problem` is empty if it was applied or replayed."""

    status: int
    position: int | None = None
    predictions: Floats | None = None  # [steps, outputs]
    replayed: bool = False
    epoch: str | None = None
    forecast: Floats | None = None
    problem: dict[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> Floats:
        """The predictions; the test fails if the chunk was refused."""
        assert self.status == 200, self.problem
        assert self.predictions is not None
        return self.predictions


class Way:
    """A running service, and a way to send chunks to it."""

    name: ClassVar[str]
    socket: ClassVar[bool] = True  # a real connection on loopback; False: ASGI in memory
    settings: ClassVar[dict[str, Any]] = {}
    server: Any = None  # uvicorn's, if there is one
    app: Any = None  # FastAPI's

    def __init__(self, engine: Engine, http: httpx.AsyncClient, port: int | None) -> None:
        self.engine = engine
        self.http = http
        self.port = port

    async def advance(
        self,
        session: str,
        rows: Any,
        at: int | None = None,
        epoch: str | None = None,
        horizon: int | None = None,
        model: str | None = None,
    ) -> Reply:
        """Send one chunk and return its answer; masked values of an array are missing."""
        fields = {"at": at, "epoch": epoch, "horizon": horizon, "model": model}
        body = {"observations": _plain(rows)} | {
            key: value for key, value in fields.items() if value is not None
        }
        response = await self.http.post(f"/sessions/{session}/observations", json=body)
        return replied(response)

    async def raw(self, session: str, body: bytes) -> Reply:
        """Send these bytes unchanged as the body, in place of a JSON chunk."""
        return replied(await self.http.post(f"/sessions/{session}/observations", content=body))

    async def session(self, session: str) -> dict[str, Any]:
        """Return the answer of GET for a session that exists."""
        response = await self.http.get(f"/sessions/{session}")
        assert response.status_code == 200, response.text
        description: dict[str, Any] = response.json()
        return description

    async def stream(
        self, session: str, rows: Floats, cuts: Sequence[int], model: str | None = None, start: int = 0
    ) -> Floats:
        """Send a series in chunks of these sizes, with `at`, and return all predictions."""
        assert sum(cuts) == len(rows)
        got, at = [], start
        for size in cuts:
            reply = await self.advance(session, rows[at - start : at - start + size], at, model=model)
            got.append(reply.numbers)
            at += size
            assert reply.position == at
        return np.concatenate(got)

    async def close(self) -> None:
        """Close the connections."""


class AsgiRoute(Way):
    """FastAPI's route, called in memory."""

    name = "asgi"
    socket = False


class HttpRoute(Way):
    """FastAPI's route, over a connection."""

    name = "http"
    settings: ClassVar[dict[str, Any]] = {"hot_route": False}


class HotRoute(Way):
    """The hot route, which answers before FastAPI's router."""

    name = "hot"
    settings: ClassVar[dict[str, Any]] = {"hot_route": True}


class TextSocket(Way):
    """One WebSocket per session, opened with its first chunk, with JSON messages."""

    name = "text"

    def __init__(self, engine: Engine, http: httpx.AsyncClient, port: int | None) -> None:
        super().__init__(engine, http, port)
        self._lines: dict[str, asyncio.Task[_Line]] = {}

    async def advance(
        self,
        session: str,
        rows: Any,
        at: int | None = None,
        epoch: str | None = None,
        horizon: int | None = None,
        model: str | None = None,
    ) -> Reply:
        fields = {"at": at, "epoch": epoch, "horizon": horizon, "model": model}
        body = {"observations": _plain(rows)} | {
            key: value for key, value in fields.items() if value is not None
        }
        return await self.raw(session, json.dumps(body).encode())

    async def raw(self, session: str, body: bytes) -> Reply:
        line = await self._line(session)
        answer = json.loads(await line.ask(body, text=True))
        if "status" in answer:
            _check_problem(answer)
            return Reply(answer["status"], answer.get("position"), problem=answer)
        return _applied(answer)

    async def _line(self, session: str) -> _Line:
        if session not in self._lines:
            opening = _Line.open(f"ws://127.0.0.1:{self.port}/sessions/{session}/stream")
            self._lines[session] = asyncio.ensure_future(opening)
        return await self._lines[session]

    async def close(self) -> None:
        for line in self._lines.values():
            (await line).reader.cancel()
            await (await line).socket.close()


class BinarySocket(TextSocket):
    """One WebSocket per session, with a binary message for each chunk that can be expressed as one."""

    name = "binary"

    async def advance(
        self,
        session: str,
        rows: Any,
        at: int | None = None,
        epoch: str | None = None,
        horizon: int | None = None,
        model: str | None = None,
    ) -> Reply:
        if model is not None:
            return await super().advance(session, rows, at, epoch, horizon, model)
        observations = np.array(_plain(rows), np.float32)
        if observations.ndim == 1:
            observations = observations[:, None]
        number = 0 if epoch is None else int(epoch, 16)
        place = -1 if at is None else at
        gaps = isinstance(rows, np.ma.MaskedArray)
        head = HEADER.pack(0, gaps, observations.shape[1], horizon or 0, place, number)
        answer = await (await self._line(session)).ask(head + observations.tobytes())
        if isinstance(answer, str):
            fields = json.loads(answer)
            _check_problem(fields)
            return Reply(fields["status"], fields.get("position"), problem=fields)
        _, replayed, width, steps, position, number = HEADER.unpack_from(answer)
        numbers = np.frombuffer(answer, "<f4", offset=HEADER.size).reshape(-1, width)
        forecast = numbers[steps:] if len(numbers) > steps else None
        return Reply(200, position, numbers[:steps], bool(replayed), f"{number:016x}", forecast)


class _Line:
    """A WebSocket; its answers come in the order of its messages."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.pending: deque[asyncio.Future[Any]] = deque()
        self.reader = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, url: str) -> _Line:
        socket = await connect(url, max_size=None, max_queue=None, compression=None, ping_interval=None)
        await socket.recv()  # the hello message
        return cls(socket)

    async def ask(self, message: bytes, text: bool = False) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self.pending.append(answer)
        await self.socket.send(message, text=text)
        return await answer

    async def _read(self) -> None:
        async for message in self.socket:
            answer = self.pending.popleft()
            if not answer.done():
                answer.set_result(message)


class BulkJson(Way):
    """The bulk route with a single session, as JSON columns. It cannot request a forecast."""

    name = "bulk-json"
    socket = False

    async def advance(
        self,
        session: str,
        rows: Any,
        at: int | None = None,
        epoch: str | None = None,
        horizon: int | None = None,
        model: str | None = None,
    ) -> Reply:
        plain = _plain(rows)
        if horizon or not plain or not all(isinstance(row, list) for row in plain):
            return await super().advance(session, rows, at, epoch, horizon, model)
        body: dict[str, Any] = {"sessions": [session], "observations": [plain], "at": [at]}
        fields = {"epochs": None if epoch is None else [epoch], "model": model}
        body |= {key: value for key, value in fields.items() if value is not None}
        response = await self.http.post("/observations", json=body)
        answer = response.json()
        if response.status_code != 200:
            check_problem(response)
            return Reply(response.status_code, answer.get("position"), problem=answer)
        if answer["errors"]:
            problem = answer["errors"]["0"]
            _check_problem(problem)
            return Reply(problem["status"], problem.get("position"), problem=problem)
        return Reply(
            200,
            answer["positions"][0],
            _matrix(answer["predictions"][0]),
            answer["replayed"] == [0],
            answer["epochs"][0],
        )


class BulkBinary(BulkJson):
    """The bulk route with a single session, as bytes."""

    name = "bulk-binary"

    async def advance(
        self,
        session: str,
        rows: Any,
        at: int | None = None,
        epoch: str | None = None,
        horizon: int | None = None,
        model: str | None = None,
    ) -> Reply:
        plain = _plain(rows)
        if horizon or not plain or len({len(row) if isinstance(row, list) else 0 for row in plain}) > 1:
            return await super().advance(session, rows, at, epoch, horizon, model)
        observations = np.array(plain, np.float32).reshape(len(plain), -1)
        pending = binary.encode(
            [session],
            [observations],
            None if at is None else [at],
            None if epoch is None else [int(epoch, 16)],
            model,
            gaps=isinstance(rows, np.ma.MaskedArray),
        )
        headers = {"content-type": "application/octet-stream"}
        response = await self.http.post("/observations", content=pending, headers=headers)
        if response.status_code != 200:
            return Reply(response.status_code, problem=check_problem(response))
        answer = binary.decode(response.content)
        if answer.errors:
            problem = answer.errors["0"]
            _check_problem(problem)
            return Reply(problem["status"], problem.get("position"), problem=problem)
        (position,), (number,) = answer.positions, answer.epochs
        return Reply(200, position, answer.predictions[0], bool(answer.replayed[0]), f"{number:016x}")


class Protocol(Way):
    """The Open Inference Protocol, with binary numbers. It creates a session only with `sequence_start`."""

    name = "v2"
    settings: ClassVar[dict[str, Any]] = {"hot_route": True}

    def __init__(self, engine: Engine, http: httpx.AsyncClient, port: int | None) -> None:
        super().__init__(engine, http, port)
        self._models: dict[str, str] = {}

    async def advance(
        self,
        session: str,
        rows: Any,
        at: int | None = None,
        epoch: str | None = None,
        horizon: int | None = None,
        model: str | None = None,
    ) -> Reply:
        plain = _plain(rows)
        try:
            observations = np.array(plain, np.float32)[None]
        except (ValueError, TypeError):  # ragged, or no numbers: it has no shape to declare
            return await super().advance(session, rows, at, epoch, horizon, model)
        gaps = isinstance(rows, np.ma.MaskedArray)
        if (None in plain and not gaps) or not observations.size:
            return await super().advance(session, rows, at, epoch, horizon, model)
        name = model or self._model(session)
        fields = {"at": at, "epoch": epoch, "horizon": horizon}
        parameters: dict[str, Any] = {key: value for key, value in fields.items() if value is not None}
        parameters |= {"gaps": True} if gaps else {}
        observations = observations.reshape(1, len(plain), -1)
        # To start a session that is at 0 changes nothing of it.
        first = {"sequence_start": True} if at == 0 and epoch is None else {}
        reply = await self._infer(name, session, observations, parameters | first)
        if reply.status in (404, 410) and at is None and epoch is None:
            reply = await self._infer(name, session, observations, parameters | {"sequence_start": True})
        if reply.status == 200:
            self._models[session] = name
        return reply

    def _model(self, session: str) -> str:
        """The model of a session, which the address must name."""
        found = self.engine.residents.find(session)
        own = self._models.get(session, self.engine.residents.models.default_model)
        return own if found is None else found[0].forecaster.artifact.name

    async def _infer(self, model: str, session: str, observations: Floats, parameters: Any) -> Reply:
        tensor = {"name": "observations", "datatype": "FP32", "shape": observations.shape}
        tensor["parameters"] = {"binary_data_size": observations.nbytes}
        parameters = {"sequence_id": session, "binary_data_output": True} | parameters
        head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        response = await self.http.post(
            f"/v2/models/{model}/infer",
            content=head + observations.tobytes(),
            headers={"inference-header-content-length": str(len(head))},
        )
        if response.status_code != 200:
            problem = response.json()["problem"]
            _check_problem(problem)
            return Reply(problem["status"], problem.get("position"), problem=problem)
        length = int(response.headers["inference-header-content-length"])
        answer = json.loads(response.content[:length])
        numbers, start = {}, length
        for output in answer["outputs"]:
            _, steps, width = output["shape"]
            part = np.frombuffer(response.content, "<f4", steps * width, start)
            numbers[output["name"]] = part.reshape(steps, width)
            start += output["parameters"]["binary_data_size"]
        fields = answer["parameters"]
        return Reply(
            200,
            fields["position"],
            numbers["predictions"],
            fields["replayed"],
            fields["epoch"],
            numbers.get("forecast"),
        )


WAYS: tuple[type[Way], ...] = (
    AsgiRoute,
    HttpRoute,
    HotRoute,
    TextSocket,
    BinarySocket,
    BulkJson,
    BulkBinary,
    Protocol,
)


def replied(response: httpx.Response) -> Reply:
    """A response to a chunk, its shape checked."""
    fields = response.json()
    if response.status_code != 200:
        check_problem(response)
        return Reply(response.status_code, fields.get("position"), problem=fields)
    assert response.headers["content-type"] == "application/json"
    assert {"session", "model"} <= fields.keys()
    return _applied(fields)


def _applied(fields: dict[str, Any]) -> Reply:
    return Reply(
        200,
        fields["position"],
        _matrix(fields["predictions"]),
        fields["replayed"],
        fields["epoch"],
        _matrix(fields["forecast"]) if "forecast" in fields else None,
    )


def check_problem(response: httpx.Response) -> dict[str, Any]:
    """Check that an answer is a problem document (RFC 9457), and return it."""
    fields: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert fields["status"] == response.status_code
    assert (response.status_code == 503) == ("retry-after" in response.headers)
    _check_problem(fields)
    return fields


def _check_problem(fields: dict[str, Any]) -> None:
    assert fields["type"].startswith("urn:carryover:")
    assert fields["title"]
    assert isinstance(fields["detail"], str)


def _plain(rows: Any) -> Any:
    return rows.tolist() if isinstance(rows, np.ndarray) else rows


def _matrix(numbers: list[Any]) -> Floats:
    array = np.array(numbers, np.float32)
    return array[:, None] if array.ndim == 1 else array
