"""Every way to send chunks to the service, behind a common interface, so that one test can check all of them.

To add a way, write a subclass of `Way` that sends chunks, and add it to `WAYS`. All other requests (create,
reset, fork, ...) use HTTP.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from app.codec.frames import DOUBLES, HEADER
from app.engine.engine import Engine
from models.arrays import Floats, Numbers
from models.forecaster import Forecaster
from tests.helpers import binary


@dataclass(frozen=True)
class Reply:
    """The answer to a chunk, the same for every way. `problem` is empty if it was applied or replayed."""

    status: int
    position: int | None = None
    predictions: Numbers | None = None  # [steps, outputs]
    replayed: bool = False
    epoch: str | None = None
    forecast: Floats | None = None
    problem: dict[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> Numbers:
        """The predictions; the test fails if the chunk was refused."""
        assert self.status == 200, self.problem
        assert self.predictions is not None
        return self.predictions


@dataclass(frozen=True)
class Chunk:
    """A chunk to send, the same for every way. Fields that are None are left out."""

    rows: Any
    at: int | None = None
    epoch: str | None = None
    horizon: int | None = None
    model: str | None = None

    @property
    def plain(self) -> Any:
        """The observations as lists."""
        return self.rows.tolist() if isinstance(self.rows, np.ndarray) else self.rows

    @property
    def is_exact(self) -> bool:
        """Whether the numbers are whole, and sent as float64 where they are sent as bytes."""
        return isinstance(self.rows, np.ndarray) and self.rows.dtype == np.int64

    @property
    def kind(self) -> str:
        """The type of the numbers where they are sent as bytes."""
        return "<f8" if self.is_exact else "<f4"

    @property
    def epoch_number(self) -> int | None:
        """The epoch as the binary forms have it."""
        return None if self.epoch is None else int(self.epoch, 16)

    @property
    def has_gaps(self) -> bool:
        """Whether values are missing."""
        return isinstance(self.rows, np.ma.MaskedArray)

    def fields(self, *names: str) -> dict[str, Any]:
        """Those of these fields that are set."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def body(self) -> dict[str, Any]:
        """The chunk as the JSON object of the HTTP route."""
        return {"observations": self.plain, **self.fields("at", "epoch", "horizon", "model")}


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
        return await self.send(session, Chunk(rows, at, epoch, horizon, model))

    async def send(self, session: str, chunk: Chunk) -> Reply:
        """Send one chunk in this way; as JSON by HTTP if the way cannot express it."""
        response = await self.http.post(f"/sessions/{session}/observations", json=chunk.body())
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

    async def send(self, session: str, chunk: Chunk) -> Reply:
        return await self.raw(session, json.dumps(chunk.body()).encode())

    async def raw(self, session: str, body: bytes) -> Reply:
        line = await self._line(session)
        answer = json.loads(await line.ask(body, text=True))
        if "status" in answer:
            return _refused(answer)
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

    async def send(self, session: str, chunk: Chunk) -> Reply:
        if chunk.model is not None:
            return await super().send(session, chunk)
        observations = np.array(chunk.plain, chunk.kind)
        if observations.ndim == 1:
            observations = observations[:, None]
        flags = chunk.has_gaps | DOUBLES * chunk.is_exact
        at = -1 if chunk.at is None else chunk.at
        width, horizon, epoch = observations.shape[1], chunk.horizon or 0, chunk.epoch_number or 0
        head = HEADER.pack(0, flags, width, horizon, at, epoch)
        answer = await (await self._line(session)).ask(head + observations.tobytes())
        if isinstance(answer, str):
            return _refused(json.loads(answer))
        _, flags, width, steps, position, number = HEADER.unpack_from(answer)
        assert bool(flags & DOUBLES) == chunk.is_exact
        replayed = flags & 1
        numbers = np.frombuffer(answer, chunk.kind, offset=HEADER.size).reshape(-1, width)
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

    async def send(self, session: str, chunk: Chunk) -> Reply:
        plain = chunk.plain
        if chunk.horizon or not plain or not all(isinstance(row, list) for row in plain):
            return await super().send(session, chunk)
        body: dict[str, Any] = {"sessions": [session], "observations": [plain], "at": [chunk.at]}
        body |= chunk.fields("model")
        if chunk.epoch is not None:
            body["epochs"] = [chunk.epoch]
        response = await self.http.post("/observations", json=body)
        answer = response.json()
        if response.status_code != 200:
            check_problem(response)
            return Reply(response.status_code, answer.get("position"), problem=answer)
        if answer["errors"]:
            return _refused(answer["errors"]["0"])
        named = {name: column[0] for name, column in answer.get("outputs", {}).items()}
        return Reply(
            200,
            answer["positions"][0],
            _by_step(named) if named else _matrix(answer["predictions"][0]),
            answer["replayed"] == [0],
            answer["epochs"][0],
        )


class BulkBinary(BulkJson):
    """The bulk route with a single session, as bytes."""

    name = "bulk-binary"

    async def send(self, session: str, chunk: Chunk) -> Reply:
        plain = chunk.plain
        if chunk.horizon or not plain or len({len(row) if isinstance(row, list) else 0 for row in plain}) > 1:
            return await super().send(session, chunk)
        observations = np.array(plain, chunk.kind).reshape(len(plain), -1)
        pending = binary.encode(
            [session],
            [observations],
            None if chunk.at is None else [chunk.at],
            None if chunk.epoch_number is None else [chunk.epoch_number],
            chunk.model,
            gaps=chunk.has_gaps,
            doubles=chunk.is_exact,
        )
        headers = {"content-type": "application/octet-stream"}
        response = await self.http.post("/observations", content=pending, headers=headers)
        if response.status_code != 200:
            return Reply(response.status_code, problem=check_problem(response))
        answer = binary.decode(response.content)
        if answer.errors:
            return _refused(answer.errors["0"])
        (position,), (number,) = answer.positions, answer.epochs
        return Reply(200, position, answer.predictions[0], bool(answer.replayed[0]), f"{number:016x}")


class Protocol(Way):
    """The Open Inference Protocol, with binary numbers. It creates a session only with `sequence_start`."""

    name = "v2"
    settings: ClassVar[dict[str, Any]] = {"hot_route": True}

    def __init__(self, engine: Engine, http: httpx.AsyncClient, port: int | None) -> None:
        super().__init__(engine, http, port)
        self._models: dict[str, str] = {}

    async def send(self, session: str, chunk: Chunk) -> Reply:
        try:
            observations = np.array(chunk.plain, chunk.kind)[None]
        except (ValueError, TypeError):  # ragged, or no numbers: it has no shape to declare
            return await super().send(session, chunk)
        if (None in chunk.plain and not chunk.has_gaps) or not observations.size:
            return await super().send(session, chunk)
        model = chunk.model or self._model(session)
        parameters = chunk.fields("at", "epoch", "horizon")
        if chunk.has_gaps:
            parameters["gaps"] = True
        observations = observations.reshape(1, len(chunk.plain), -1)
        # To start a session that is at 0 changes nothing of it.
        first = {"sequence_start": True} if chunk.at == 0 and chunk.epoch is None else {}
        reply = await self._infer(model, session, observations, parameters | first)
        if reply.status in (404, 410) and chunk.at is None and chunk.epoch is None:
            reply = await self._infer(model, session, observations, parameters | {"sequence_start": True})
        if reply.status == 200:
            self._models[session] = model
        return reply

    def _model(self, session: str) -> str:
        """The model of a session, which the address must name."""
        found = self.engine.residents.find(session)
        own = self._models.get(session, self.engine.residents.models.default_model)
        return own if found is None else found[0].forecaster.artifact.name

    async def _infer(self, model: str, session: str, observations: Floats, parameters: Any) -> Reply:
        parameters = {"sequence_id": session, "binary_data_output": True} | parameters
        inputs, tail = self._tensors(model, observations)
        head = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        response = await self.http.post(
            f"/v2/models/{model}/infer",
            content=head + tail,
            headers={"inference-header-content-length": str(len(head))},
        )
        if response.status_code != 200:
            return _refused(response.json()["problem"])
        length = int(response.headers["inference-header-content-length"])
        answer = json.loads(response.content[:length])
        numbers, start = {}, length
        for output in answer["outputs"]:
            _, steps, *shape = output["shape"]
            kind = KINDS[output["datatype"]]
            part = np.frombuffer(response.content, kind, steps * math.prod(shape), start)
            numbers[output["name"]] = part.reshape(steps, -1)
            start += output["parameters"]["binary_data_size"]
        fields = answer["parameters"]
        ports = self._forecaster(model).artifact.output_ports
        return Reply(
            200,
            fields["position"],
            np.concatenate([numbers[port.name] for port in ports], axis=1),
            fields["replayed"],
            fields["epoch"],
            numbers.get("forecast"),
        )

    def _forecaster(self, model: str) -> Forecaster:
        models = self.engine.residents.models
        return models.current[model if model in models.current else models.default_model].forecaster

    def _tensors(self, model: str, observations: Numbers) -> tuple[list[dict[str, Any]], bytes]:
        """The inputs of a request, and their bytes: [1, steps, inputs] cut into the tensors of the model."""
        ports = self._forecaster(model).artifact.input_ports
        names = {kind: name for name, kind in KINDS.items()}
        inputs, parts, stop = [], [], 0
        for port in ports:
            # What is wider than the model is sent whole, to be refused.
            start, stop = stop, stop + port.size if len(ports) > 1 else observations.shape[2]
            shape = (
                1,
                observations.shape[1],
                *(port.shape if stop - start == port.size else (stop - start,)),
            )
            kind = port.type.newbyteorder("<")
            parts.append(observations[:, :, start:stop].astype(kind).tobytes())
            parameters = {"binary_data_size": len(parts[-1])}
            inputs.append(
                {"name": port.name, "datatype": names[kind.str], "shape": shape, "parameters": parameters}
            )
        return inputs, b"".join(parts)


KINDS = {"FP32": "<f4", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4", "UINT8": "|u1", "BOOL": "|b1"}
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


def _refused(problem: dict[str, Any]) -> Reply:
    _check_problem(problem)
    return Reply(problem["status"], problem.get("position"), problem=problem)


def _applied(fields: dict[str, Any]) -> Reply:
    return Reply(
        200,
        fields["position"],
        _by_step(fields["outputs"]) if "outputs" in fields else _matrix(fields["predictions"]),
        fields["replayed"],
        fields["epoch"],
        _forecast(fields["forecast"]) if "forecast" in fields else None,
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


def _by_step(outputs: dict[str, list[Any]]) -> Numbers:
    """[steps, outputs] of several outputs by name."""
    return np.concatenate(
        [np.array(steps, np.float64).reshape(len(steps), -1) for steps in outputs.values()], 1
    )


def _forecast(forecast: Any) -> Numbers:
    return _by_step(forecast) if isinstance(forecast, dict) else _matrix(forecast)


def _matrix(numbers: list[Any]) -> Numbers:
    """Whole numbers as float64, others as float32."""
    array = np.array(numbers)
    array = array.astype(np.float64 if array.dtype.kind == "i" else np.float32)
    return array[:, None] if array.ndim == 1 else array
