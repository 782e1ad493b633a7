"""Every way in tells the engine when its client leaves, so that a slow job is not carried on for nobody."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import numpy as np
import pyarrow as pa
import pytest

from app.codec.frames import HEADER
from app.jobs.jobs import Job, is_cancelled
from tests.helpers import binary
from tests.helpers.faults import held, until
from tests.helpers.raw import RawConnection, connect, frame, handshake, read_frame, request
from tests.helpers.ways import Way

pytestmark = pytest.mark.anyio

STEPS = 2000  # of a chunk that takes several batches
ROWS = [[0.5]] * STEPS
CHUNK = json.dumps({"observations": ROWS}).encode()
BULK = json.dumps({"sessions": ["s"], "observations": [ROWS]}).encode()
SPACES = b" " * 2**18  # a bulk request of more bytes is left to the router
ARROW = "content-type: application/vnd.apache.arrow.stream"
TEXT, BINARY = 1, 2


def arrow() -> bytes:
    table = pa.table({"session": ["s"], "observations": [ROWS]})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def infer() -> bytes:
    tensor = {"name": "observations", "datatype": "FP32", "shape": [1, STEPS, 1], "data": [0.5] * STEPS}
    parameters = {"sequence_id": "s", "sequence_start": True}
    return json.dumps({"inputs": [tensor], "parameters": parameters}).encode()


def binary_message() -> bytes:
    return HEADER.pack(0, 0, 1, 0, -1, 0) + np.full(STEPS, 0.5, "<f4").tobytes()


REQUESTS: dict[str, Callable[[], bytes]] = {
    "chunk": lambda: request("POST", "/sessions/s/observations", CHUNK),
    "chunk with options": lambda: request("POST", "/sessions/s/observations", b'{"level":0.9,' + CHUNK[1:]),
    "forecast": lambda: request("GET", "/sessions/known/forecast?steps=1000"),
    "export": lambda: request("GET", "/sessions/known/state"),
    "bulk JSON": lambda: request("POST", "/observations", BULK),
    "bulk JSON, large": lambda: request("POST", "/observations", BULK + SPACES),
    "bulk JSON, a bad neighbour": lambda: request(
        "POST", "/observations", BULK.replace(b'["s"]', b'["s","."]').replace(b"[[[0.5]", b"[[[1]],[[0.5]")
    ),
    "bulk bytes": lambda: request(
        "POST",
        "/observations",
        binary.encode(["s"], [np.full((STEPS, 1), 0.5, np.float32)]),
        "content-type: application/octet-stream",
    ),
    "bulk Arrow": lambda: request("POST", "/observations", arrow(), ARROW),
    "v2": lambda: request("POST", "/v2/models/sine/infer", infer()),
    "v2 with a query": lambda: request("POST", "/v2/models/sine/infer?x=1", infer()),
}
MESSAGES = {"text": lambda: frame(TEXT, CHUNK), "binary": lambda: frame(BINARY, binary_message())}


@pytest.fixture
def store() -> str:
    return "memory"


@asynccontextmanager
async def submitted(service: Way) -> AsyncIterator[list[Job]]:
    """The jobs that are submitted meanwhile; none is begun before the end."""
    jobs: list[Job] = []
    async with held(service.engine):
        submit = service.engine.submit
        service.engine.submit = lambda job: (submit(job), jobs.append(job))
        yield jobs
        del service.engine.submit


async def check_that_a_job_is_cancelled(service: Way, connection: RawConnection, sent: bytes) -> None:
    """Send, and leave once the job is queued."""
    async with submitted(service) as jobs:
        await connection.send(sent)
        await until(lambda: bool(jobs))
        assert not any(map(is_cancelled, jobs))
        connection.writer.close()
        with suppress(TimeoutError):
            await until(lambda: all(map(is_cancelled, jobs)), 20)
        assert [is_cancelled(job) for job in jobs] == [True]


@pytest.mark.parametrize("hot_route", [True, False], ids=["hot", "router"])
@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_job_of_a_request_knows_that_its_client_left(start_hot, kind, hot_route):
    async with start_hot(hot_route=hot_route) as service, connect(service.port) as connection:
        body = b'{"observations":[[0.5]]}'
        await connection.send(request("POST", "/sessions/known/observations", body))
        assert (await connection.answer()).status == 200
        await check_that_a_job_is_cancelled(service, connection, REQUESTS[kind]())


@pytest.mark.parametrize("kind", MESSAGES)
async def test_a_job_of_a_socket_knows_that_its_client_left(start_hot, kind):
    async with start_hot() as service, connect(service.port) as connection:
        await connection.send(handshake("/sessions/s/stream"))
        assert (await connection.answer()).status == 101
        await read_frame(connection)
        await check_that_a_job_is_cancelled(service, connection, MESSAGES[kind]())
