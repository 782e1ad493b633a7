"""gRPC under the limits of the server: keys, connections, sizes of messages, pings, and a bounded stop."""

from __future__ import annotations

import asyncio
import struct
import time
from contextlib import suppress

import grpc
import pytest
from tritonclient.grpc import service_pb2

from app.config import Settings
from app.errors import Malformed, TooLarge
from app.jobs.jobs import is_cancelled
from app.open_inference.grpc import server
from app.open_inference.grpc.decoding import MAX_PARTS, decode_message
from tests.helpers.faults import held, until
from tests.helpers.locked import Keys

pytestmark = pytest.mark.anyio

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", 0)[1:] + bytes([4, 0]) + bytes(4)
PING, GOAWAY = 6, 7


@pytest.fixture
def store() -> str:
    return "memory"


@pytest.fixture
def serve(start_hot):
    return lambda **changes: start_hot(grpc_port=0, **changes)


def port_of(service):
    return service.app.state.grpc.port


def chunk(sequence=5, start=True):
    request = service_pb2.ModelInferRequest(model_name="sine", raw_input_contents=[bytes(4)])
    request.parameters["sequence_id"].int64_param = sequence
    request.parameters["sequence_start"].bool_param = start
    request.inputs.add(name="observations", datatype="FP32", shape=[1, 1, 1])
    return request


class Stream:
    """An open stream of a client."""

    def __init__(self, service, headers=None):
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port_of(service)}")
        method = self.channel.stream_stream(
            STREAM,
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelStreamInferResponse.FromString,
        )
        self.call = method(metadata=[(name.lower(), value) for name, value in (headers or {}).items()])

    async def infer(self, sequence=5):
        await self.call.write(chunk(sequence))
        return await self.call.read()

    async def end(self):
        """Wait until the server ends the stream; returns its status and text."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await asyncio.wait_for(self.call.read(), 20)
        return error.value.code(), error.value.details()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.call.cancel()
        await self.channel.close()


async def test_an_open_stream_is_closed_when_its_key_is_removed(serve, tmp_path):
    keys = Keys(tmp_path)
    keys.add("owner")
    keys.add("other")
    async with (
        serve(api_keys_file=keys.path) as service,
        Stream(service, keys.headers("owner")) as stream,
        Stream(service, keys.headers("other")) as other,
    ):
        assert not (await stream.infer()).error_message
        assert not (await other.infer()).error_message
        keys.remove("owner")
        service.app.state.authenticator.refresh()
        assert await stream.end() == (grpc.StatusCode.UNAUTHENTICATED, "the API key was revoked")
        assert not (await other.infer(6)).error_message


async def test_streams_count_as_sockets_of_their_key(serve, tmp_path):
    keys = Keys(tmp_path)
    keys.add("owner")
    async with serve(api_keys_file=keys.path, key_sockets=1) as service:
        async with Stream(service, keys.headers("owner")) as first:
            assert not (await first.infer()).error_message
            async with Stream(service, keys.headers("owner")) as second:
                assert (await second.end())[0] is grpc.StatusCode.UNAVAILABLE
        await until(lambda: not service.app.state.authenticator.sockets)
        async with Stream(service, keys.headers("owner")) as third:
            assert not (await third.infer()).error_message


async def test_streams_count_as_sockets_of_the_server(serve):
    async with serve(sockets=1) as service, Stream(service) as first:
        assert not (await first.infer()).error_message
        async with Stream(service) as second:
            assert (await second.end())[0] is grpc.StatusCode.UNAVAILABLE


def test_the_connections_of_both_ports_together_are_within_the_limit():
    with_grpc = Settings(connections=20_000, grpc_port=0)
    assert (with_grpc.grpc_connections, with_grpc.http_connections) == (5000, 15_000)
    assert (Settings().grpc_connections, Settings().http_connections) == (0, 20_000)


async def test_idle_connections_to_the_grpc_port_are_bounded_and_leave_http_its_own(serve):
    async with serve(connections=16) as service:
        held = [await asyncio.open_connection("127.0.0.1", port_of(service)) for _ in range(12)]
        async with asyncio.timeout(20):
            closed = [await reader.read(1000) == b"" for reader, _ in held]
        assert closed.count(False) == 4  # an accepted connection is greeted with the server's settings
        assert (await service.http.get("/health/live")).status_code == 200
        for _, writer in held:
            writer.close()


async def test_a_client_may_ping_an_idle_connection(serve, monkeypatch):
    monkeypatch.setattr(server, "MIN_CLIENT_PING_MS", 20)
    async with serve() as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(service))
        writer.write(PREFACE)
        answered = 0
        async with asyncio.timeout(20):
            while answered < 10:
                writer.write(struct.pack(">I", 8)[1:] + bytes([PING, 0]) + bytes(4) + bytes(8))
                kind = flags = None
                while (kind, flags) != (PING, 1):
                    head = await reader.readexactly(9)
                    kind, flags = head[3], head[4]
                    assert kind != GOAWAY, "Too many pings"
                    await reader.readexactly(int.from_bytes(head[:3], "big"))
                answered += 1
                await asyncio.sleep(0.03)  # a client's keepalive interval
        writer.close()


async def test_a_call_whose_message_never_comes_is_ended_in_time(serve):
    async with (
        serve(request_seconds=1) as service,
        grpc.aio.insecure_channel(f"127.0.0.1:{port_of(service)}") as channel,
    ):
        for name in ("ServerLive", "ModelInfer"):
            call = channel.stream_unary(f"/inference.GRPCInferenceService/{name}")()  # sends its head
            ended = asyncio.ensure_future(call.code())
            await asyncio.wait([ended], timeout=10)
            assert ended.done(), "it waits for its message without end"
            assert await ended is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "CARRYOVER_REQUEST_SECONDS" in await call.details()


async def test_the_server_stops_at_once_with_an_idle_stream_open(serve):
    async with serve() as service, Stream(service) as stream:
        assert not (await stream.infer()).error_message
        start = time.monotonic()
        await service.app.state.grpc.close(30)
        assert time.monotonic() - start < 10
        assert await stream.end() == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")


async def test_answers_to_requests_that_were_read_are_sent_before_a_stop(serve):
    async with serve() as service, Stream(service) as stream:
        for sequence in range(1, 21):
            await stream.call.write(chunk(sequence))
        assert not (await stream.call.read()).error_message
        await until(lambda: len(service.engine.residents) == 20)
        await service.app.state.grpc.close(30)
        answers = [await stream.call.read() for _ in range(19)]
        assert not any(answer.error_message for answer in answers)
        assert (await stream.end())[0] is grpc.StatusCode.UNAVAILABLE


EIGHT_MIB = 8 * 2**20
BOMBS = {
    "inputs": b"\x2a\x00" * (EIGHT_MIB // 2),
    "raw inputs": b"\x3a\x00" * (EIGHT_MIB // 2),
    "outputs": b"\x32\x00" * (EIGHT_MIB // 2),
    "parameters": b"\x22\x00" * (EIGHT_MIB // 2),
    "parameters of an input": b"\x2a\xfe\xff\xff\x03" + b"\x22\x00" * 4_194_303,
    "shape": b"\x2a\x85\x80\x80\x02" + b"\x1a\x80\x80\x80\x02" + b"\x01" * 4_194_304,
    "unknown fields": b"\x98\x06\x00" * (EIGHT_MIB // 3),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_message_of_millions_of_parts_is_refused_before_it_is_decoded(kind):
    start = time.process_time()
    with pytest.raises(TooLarge, match=f"at most {MAX_PARTS} fields and values"):
        decode_message("ModelInferRequest", BOMBS[kind])
    assert time.process_time() - start < 0.25


@pytest.mark.parametrize("data", [b"\x2a\x05", b"\xff" * 20, b"\x0a\x01\xff", b"\x0b", b"\x07"])
def test_bytes_that_are_not_a_message_are_malformed(data):
    with pytest.raises(Malformed, match="not a valid ModelInferRequest"):
        decode_message("ModelInferRequest", data)


async def test_a_message_of_many_parameters_has_an_error_status(serve):
    request = chunk()
    for number in range(200_000):
        request.parameters[f"p{number}"].bool_param = True
    async with serve() as service:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port_of(service)}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(request.SerializeToString())
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(service.engine.residents) == 0


async def test_typed_observations_are_used_whatever_else_the_contents_hold(serve):
    request = chunk()
    del request.raw_input_contents[:]
    contents = request.inputs[0].contents
    contents.fp32_contents.append(0.5)
    contents.fp64_contents.append(7.0)
    contents.int_contents.append(7)
    contents.bytes_contents.append(b"1234")
    plain = chunk(6)
    plain.raw_input_contents[0] = struct.pack("<f", 0.5)
    async with serve() as service:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port_of(service)}") as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                service_pb2.ModelInferRequest.SerializeToString,
                service_pb2.ModelInferResponse.FromString,
            )
            typed, raw = await call(request), await call(plain)
        assert typed.raw_output_contents == raw.raw_output_contents


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_job_knows_that_its_client_has_left(serve, monkeypatch, streamed):
    jobs = []
    async with serve() as service, held(service.engine) as release:
        submit = service.engine.submit
        monkeypatch.setattr(service.engine, "submit", lambda job: (submit(job), jobs.append(job)))
        async with Stream(service) as stream:
            if streamed:
                await stream.call.write(chunk())
                call = stream.call
            else:
                method = stream.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                call = method(chunk().SerializeToString())
            await until(lambda: len(jobs) == 1)
            assert not is_cancelled(jobs[0])
            call.cancel()
            with suppress(TimeoutError):
                await until(lambda: is_cancelled(jobs[0]), 20)
            assert is_cancelled(jobs[0])
        release.set()
