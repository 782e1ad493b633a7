"""`/v2` over gRPC: messages, streams, statuses, keys, and servers without gRPC."""

import asyncio
import builtins
import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc as rpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc
from numpy.testing import assert_allclose, assert_array_equal
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from app import main
from app.config import Settings
from app.errors import CarryoverError, ConfigError, Stopping, Unauthorized
from app.open_inference.grpc.infer_stream import InferStream
from app.open_inference.grpc.messages import COMPILED, PACKAGE, SOURCE, message, pool
from app.start_report import describe_start
from tests.helpers.locked import Keys
from tests.helpers.triton import AioGrpc, Grpc
from tests.helpers.zoo import TOLERANCE, one_pass, series
from tests.promises.test_promises import cuts

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> str:
    return "memory"


@pytest.fixture
def serve(start_hot):
    return lambda **changes: start_hot(grpc_port=0, **changes)


def client_descriptor(path):
    """The descriptor of a message or an enumeration in the client's package."""
    outer, *inner = path.split(".")
    files = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    found = next(
        names[outer]
        for file in files
        for names in (file.message_types_by_name, file.enum_types_by_name)
        if outer in names
    )
    for name in inner:
        found = found.nested_types_by_name.get(name) or found.enum_types_by_name[name]
    return found


def described(field):
    kind = field.message_type or field.enum_type
    exact = field.type not in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_ENUM)
    return field.name, field.number, field.is_repeated, field.type if exact else kind.full_name


def test_the_checked_in_descriptors_equal_those_that_protoc_makes(tmp_path):
    compiled = tmp_path / COMPILED.name
    arguments = ["protoc", f"--proto_path={SOURCE.parent}", f"--descriptor_set_out={compiled}", SOURCE.name]
    assert protoc.main(arguments) == 0
    made, checked_in = (FileDescriptorSet.FromString(path.read_bytes()) for path in (compiled, COMPILED))
    assert made == checked_in, "run `make messages`"


def names_of(messages, prefix=""):
    """Names of messages and of enumerations, those within others as `Outer.Inner`."""
    for each in messages:
        inner = f"{prefix}{each.name}"
        yield inner, [f"{inner}.{enum.name}" for enum in each.enum_type]
        if not each.options.map_entry:
            yield from names_of(each.nested_type, f"{inner}.")


(FILE,) = FileDescriptorSet.FromString(COMPILED.read_bytes()).file
MESSAGES = dict(names_of(FILE.message_type))
ENUMS = [enum.name for enum in FILE.enum_type] + [name for inner in MESSAGES.values() for name in inner]


@pytest.mark.parametrize("path", sorted(name for name in MESSAGES if not name.endswith("Entry")))
def test_every_field_has_number_and_type_of_the_clients_field(path):
    known = {described(field) for field in client_descriptor(path).fields}
    fields = [described(field) for field in message(path).DESCRIPTOR.fields]
    assert [field for field in fields if field not in known] == []


@pytest.mark.parametrize("path", sorted(ENUMS))
def test_every_enumeration_value_has_the_clients_number(path):
    known = {value.name: value.number for value in client_descriptor(path).values}
    values = pool.FindEnumTypeByName(f"{PACKAGE}.{path}").values
    assert {value.name: value.number for value in values}.items() <= known.items()


class Stream:
    """The client's bidirectional stream; results in the order of arrival."""

    def __init__(self, port):
        self.client = rpc.InferenceServerClient(f"127.0.0.1:{port}")
        self.results = queue.Queue()
        self.client.start_stream(lambda result, error: self.results.put((result, error)))

    def send(self, model, rows, sequence, start=False, end=False, **named):
        array = np.asarray(rows, np.float32)[None]
        tensor = rpc.InferInput("observations", array.shape, "FP32")
        tensor.set_data_from_numpy(array)
        ends = {"sequence_start": start, "sequence_end": end}
        self.client.async_stream_infer(model, [tensor], sequence_id=sequence, **ends, **named)

    def take(self):
        return self.results.get(timeout=30)

    def close(self):
        self.client.stop_stream()
        self.client.close()


def port_of(service):
    return service.server.config.app.state.grpc.port


async def test_interleaved_sequences_on_one_stream_are_answered_correctly_and_in_order(serve, artifacts):
    wholes = {i + 1: series("pair", 30, i) for i in range(16)}
    sizes = {name: cuts(30, name) for name in wholes}

    def drive(port):
        stream, sent, got = Stream(port), [], {name: [] for name in wholes}
        at, number = dict.fromkeys(wholes, 0), 0
        while any(sizes.values()):
            for name, left in sizes.items():
                if left:
                    size, first = left.pop(0), at[name] == 0
                    chunk = wholes[name][at[name] : at[name] + size]
                    stream.send("pair", chunk, name, first, not left, request_id=f"{name}-{number}")
                    at[name] += size
                    sent.append(f"{name}-{number}")
                    number += 1
        for wanted in sent:
            result, error = stream.take()
            assert error is None
            assert result.get_response().id == wanted
            got[int(wanted.partition("-")[0])].append(result.as_numpy("predictions")[0])
        stream.close()
        return got

    async with serve() as service:
        got = await asyncio.to_thread(drive, port_of(service))
        assert len(service.engine.residents) == 0
    for name, whole in wholes.items():
        assert_allclose(np.concatenate(got[name]), one_pass(artifacts["pair"], whole), atol=TOLERANCE)


async def test_an_error_on_a_stream_is_answered_and_the_stream_goes_on(serve):
    def drive(port):
        stream = Stream(port)
        stream.send("sine", [[0.5]], 5)
        stream.send("nobody", [[0.5]], 5, True)
        stream.send("sine", [[0.5]], 5, True)
        answers = [stream.take() for _ in range(3)]
        stream.close()
        return answers

    async with serve() as service:
        first, second, third = await asyncio.to_thread(drive, port_of(service))
    assert "must specify the START flag" in first[1].message()
    assert second[1].message() == "Request for unknown model: 'nobody' is not found"
    assert third[0].as_numpy("predictions").shape == (1, 1, 1)


async def test_a_client_that_leaves_in_the_middle_of_a_stream_does_not_affect_others(serve):
    def leave(port):
        stream = Stream(port)
        for number in range(50):
            stream.send("sine", [[0.5]], 5, number == 0)
        stream.client.stop_stream(cancel_requests=True)
        stream.client.close()

    async with serve() as service:
        await asyncio.to_thread(leave, port_of(service))
        client = Grpc(service)
        await client.open()
        result = await client.infer("sine", [[0.5]], 6, start=True)
        assert result.as_numpy("predictions").shape == (1, 1, 1)
        await client.close()


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"model": "nobody"}, "NOT_FOUND"),
        ({"sequence": 0}, "INVALID_ARGUMENT"),
        ({"rows": [[0.5, 0.5]]}, "INVALID_ARGUMENT"),
        ({"parameters": {"at": "x"}}, "INVALID_ARGUMENT"),
        ({"rows": [[0.5]] * 20_000}, "RESOURCE_EXHAUSTED"),
    ],
)
async def test_each_kind_of_error_has_its_grpc_status(serve, changes, status):
    arguments = {"model": "sine", "rows": [[0.5]], "sequence": 5, "start": True} | changes
    async with serve(chunk_observations=10_000) as service:
        client = AioGrpc(service)
        await client.open()
        with pytest.raises(InferenceServerException) as error:
            await client.infer(**arguments)
        assert error.value.status() == f"StatusCode.{status}"
        await client.close()


async def test_a_stopping_server_is_unavailable(serve):
    async with serve() as service:
        service.engine.stopping = True
        client = AioGrpc(service)
        await client.open()
        with pytest.raises(InferenceServerException) as error:
            await client.infer("sine", [[0.5]], 5, start=True)
        assert error.value.status() == "StatusCode.UNAVAILABLE"
        service.engine.stopping = False
        await client.close()


def request(**changes):
    """A request of the client's own messages, for fields that its classes do not have."""
    made = service_pb2.ModelInferRequest(model_name="sine")
    made.parameters["sequence_id"].int64_param = changes.pop("sequence", 5)
    made.parameters["sequence_start"].bool_param = True
    tensor = made.inputs.add(name="observations", datatype="FP32", shape=[1, 2, 1])
    tensor.contents.fp32_contents.extend(changes.pop("contents", []))
    made.raw_input_contents.extend(changes.pop("raw", []))
    for name in changes.pop("tensor_parameters", ()):
        tensor.parameters[name].string_param = "x"
    for name in changes.pop("output_parameters", ()):
        made.outputs.add(name="predictions").parameters[name].string_param = "x"
    return made


async def sent(service, made):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port_of(service)}") as channel:
        return await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(made)


async def test_observations_may_be_typed_contents_or_raw_bytes(serve):
    numbers = np.array([0.5, 0.6], np.float32)
    async with serve() as service:
        typed = await sent(service, request(contents=numbers.tolist()))
        raw = await sent(service, request(raw=[numbers.tobytes()]))
        assert_array_equal(typed.raw_output_contents[0], raw.raw_output_contents[0])


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"contents": [1.0, 2.0], "raw": [b"12345678"]}, "INVALID_ARGUMENT", "must not be specified"),
        ({"raw": [b"1234"]}, "INVALID_ARGUMENT", "Expected 8, got 4"),
        ({}, "INVALID_ARGUMENT", "Expected 8, got 0"),
        ({"tensor_parameters": ["shared_memory_region"]}, "UNIMPLEMENTED", "shared memory"),
        ({"output_parameters": ["shared_memory_region"]}, "UNIMPLEMENTED", "shared memory"),
        ({"output_parameters": ["classification"]}, "UNIMPLEMENTED", "classification"),
    ],
)
async def test_the_error_says_what_is_wrong_with_a_message(serve, changes, status, text):
    async with serve() as service:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await sent(service, request(**changes))
        assert error.value.code().name == status
        assert text in error.value.details()


async def test_a_sequence_id_of_2_to_the_63_or_more_arrives_as_a_negative_number(serve):
    async with serve() as service:
        await sent(service, request(sequence=-2, contents=[0.5, 0.6]))
        assert (await service.session(str(2**64 - 2)))["position"] == 2


async def test_an_unknown_call_is_unimplemented(serve):
    async with serve() as service:
        client = Grpc(service)
        await client.open()
        with pytest.raises(InferenceServerException) as error:
            await client.call("get_system_shared_memory_status")
        assert error.value.status() == "StatusCode.UNIMPLEMENTED"
        await client.close()


async def test_a_key_is_needed_and_opens_only_the_sequences_of_its_tenant(serve, tmp_path):
    keys = Keys(tmp_path)
    for name in ("owner", "other"):
        keys.add(name)
    keys.add("admin", "admin")
    async with serve(api_keys_file=keys.path) as service:
        client = AioGrpc(service)
        await client.open()
        assert await client.call("is_server_live")
        with pytest.raises(InferenceServerException) as error:
            await client.infer("sine", [[0.5]], 5, start=True)
        assert error.value.status() == "StatusCode.UNAUTHENTICATED"
        await client.infer("sine", [[0.5]], 5, start=True, headers=keys.headers("owner"))
        with pytest.raises(InferenceServerException, match="START flag"):
            await client.infer("sine", [[0.5]], 5, headers=keys.headers("other"))
        with pytest.raises(InferenceServerException) as error:
            await client.call("unload_model", "sine", headers=keys.headers("owner"))
        assert error.value.status() == "StatusCode.PERMISSION_DENIED"
        await client.call("unload_model", "sine", headers=keys.headers("admin"))
        await client.close()


def test_without_the_grpc_packages_the_error_says_how_to_install_them(monkeypatch, zoo_folder):
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name.startswith("app.open_inference.grpc"):
            raise ImportError("No module named 'grpc'")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install .*\[grpc\]"):
        main.create_app(Settings(models=(zoo_folder,), grpc_port=0))


async def test_a_port_in_use_is_an_error_that_names_it(serve, zoo_folder):
    async with serve() as service:
        app = main.create_app(Settings(models=(zoo_folder,), grpc_port=port_of(service)))
        with pytest.raises(ConfigError, match=f"gRPC cannot listen on 127.0.0.1:{port_of(service)}") as error:
            await app.state.grpc.open()
        assert "choose another port: CARRYOVER_GRPC_PORT" in str(error.value)


async def test_the_start_names_the_port_that_was_taken(serve):
    async with serve() as service:
        assert port_of(service) != 0
        assert f"gRPC: 127.0.0.1:{port_of(service)}" in describe_start(service.server.config.app)


@pytest.mark.parametrize("end", [InferStream.stop, InferStream.revoke], ids=["stop", "revoke"])
async def test_a_stream_that_is_closed_before_its_first_request_ends(end):
    async def requests():
        await asyncio.Event().wait()
        yield b""

    async def answer(_):
        return None

    async def read(stream):
        try:
            return [response async for response in stream.responses()]
        except CarryoverError as error:
            return type(error)

    end(stream := InferStream(requests(), answer))
    done, _ = await asyncio.wait([asyncio.ensure_future(read(stream))], timeout=5)
    assert [task.result() for task in done] == [Stopping if end is InferStream.stop else Unauthorized]
