"""`/v2` byte by byte: the binary tensor extension, compression, raw input, parameters, and every refusal."""

import asyncio
import gzip
import json
import zlib

import httpx
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.helpers.zoo import TOLERANCE, one_pass, series

pytestmark = pytest.mark.anyio

INFER = "/v2/models/sine/infer"
LENGTH = "inference-header-content-length"
START = {"sequence_id": 5, "sequence_start": True}


@pytest.fixture
def store() -> str:
    return "memory"


@pytest.fixture(params=[True, False], ids=["hot", "plain"])
def serve(request, start_hot):
    return lambda **changes: start_hot(**{"hot_route": request.param} | changes)


def tensor(rows, **changes):
    shape = [1, len(rows), len(rows[0])]
    made = {"name": "observations", "shape": shape, "datatype": "FP32", "data": [rows]} | changes
    return {key: value for key, value in made.items() if value is not None}


def binary(rows, parameters, **changes):
    """Headers and body of a request with one binary input."""
    numbers = np.array(rows, "<f4").tobytes()
    input_ = tensor(rows, data=None, parameters={"binary_data_size": len(numbers)})
    head = json.dumps({"inputs": [input_], "parameters": parameters} | changes).encode()
    return {"headers": {LENGTH: str(len(head))}, "content": head + numbers}


async def ask(service, parameters=START, rows=((0.5,),), **changes) -> httpx.Response:
    """A request of JSON: its inputs unless they are changed."""
    body = {"inputs": [tensor([list(row) for row in rows])], "parameters": parameters} | changes
    return await service.http.post(INFER, json=body)


def output(response, name="predictions"):
    """Numbers of an output, however it came."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    at = length
    for entry in json.loads(response.content[:length])["outputs"]:
        size = entry.get("parameters", {}).get("binary_data_size", 0)
        if entry["name"] == name:
            numbers = (
                entry["data"] if "data" in entry else np.frombuffer(response.content[at : at + size], "<f4")
            )
            return np.array(numbers, np.float32).reshape(entry["shape"])
        at += size
    raise KeyError(name)


async def test_bytes_and_json_give_the_same_numbers_in_requests_and_answers(serve, artifacts):
    whole = series("sine", 9)
    wanted = one_pass(artifacts["sine"], whole)[None]
    async with serve() as service:
        answers = []
        for asks_bytes in (False, True):
            parameters = START | {"binary_data_output": asks_bytes}
            answers.append(await ask(service, parameters, whole.tolist()))
            answers.append(await service.http.post(INFER, **binary(whole.tolist(), parameters)))
        for answer in answers:
            assert_allclose(output(answer), wanted, atol=TOLERANCE)
        kinds = [(LENGTH in answer.headers, answer.headers["content-type"]) for answer in answers]
        expected = [(False, "application/json")] * 2 + [(True, "application/octet-stream")] * 2
        assert kinds == expected


async def test_each_output_chooses_bytes_or_json(serve):
    wanted = [{"name": "predictions"}, {"name": "forecast", "parameters": {"binary_data": False}}]
    async with serve() as service:
        parameters = START | {"binary_data_output": True, "horizon": 2}
        answer = await ask(service, parameters, outputs=wanted)
        head = json.loads(answer.content[: int(answer.headers[LENGTH])])
        assert ["data" in entry for entry in head["outputs"]] == [False, True]
        assert output(answer).shape == (1, 1, 1)
        assert output(answer, "forecast").shape == (1, 2, 1)


@pytest.mark.parametrize("data", [[0.1, 0.2, 0.3], [[0.1, 0.2, 0.3]], [[[0.1], [0.2], [0.3]]]])
async def test_numbers_may_be_nested_or_flat(serve, data):
    rows = [[0.1], [0.2], [0.3]]
    async with serve() as service:
        plain = await ask(service, rows=rows)
        other = await ask(service, inputs=[tensor(rows, data=data)])
        assert_array_equal(output(other), output(plain))


@pytest.mark.parametrize("sequence", [2**53 + 1, 2**63 + 1, 2**64 - 1])
async def test_a_large_number_of_a_sequence_is_kept_exactly(serve, sequence):
    async with serve() as service:
        assert (await ask(service, {"sequence_id": sequence, "sequence_start": True})).status_code == 200
        assert (await service.session(str(sequence)))["position"] == 1
        neighbour = await ask(service, {"sequence_id": sequence - 1})
        assert f"for sequence {sequence - 1} " in neighbour.json()["error"]


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_request_is_the_same_request(serve, encoding, pack):
    async with serve() as service:
        sent = binary([[0.5], [0.6]], START)
        plain = await service.http.post(INFER, **sent)
        headers = sent["headers"] | {"content-encoding": encoding}
        packed = await service.http.post(INFER, headers=headers, content=pack(sent["content"]))
        assert_array_equal(output(packed), output(plain))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_long_answer_is_compressed_for_clients_that_accept_it(serve, encoding):
    rows = series("sine", 400).tolist()
    async with serve() as service:
        plain = await service.http.post(INFER, json=_body(rows), headers={"accept-encoding": "identity"})
        packed = await service.http.post(INFER, json=_body(rows), headers={"accept-encoding": encoding})
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == encoding
        assert int(packed.headers["content-length"]) < len(plain.content)
        assert_allclose(output(packed), output(plain), atol=TOLERANCE)
        refused = await service.http.post(
            INFER, json=_body(rows), headers={"accept-encoding": f"{encoding};q=0"}
        )
        assert "content-encoding" not in refused.headers


async def test_a_body_above_the_limit_after_decompression_is_refused(serve):
    async with serve(body_bytes=100_000) as service:
        bomb = gzip.compress(b"[" * 10_000_000, mtime=0)
        assert len(bomb) < 100_000
        headers = {"content-encoding": "gzip"}
        answer = await service.http.post(INFER, content=bomb, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "a body has at most 100000 bytes")


async def test_a_body_above_the_limit_is_refused_in_the_protocols_format(serve):
    async with serve(body_bytes=2000) as service:
        answer = await service.http.post(INFER, content=b"[" * 3000)
        assert (answer.status_code, answer.json()["error"]) == (400, "a body has at most 2000 bytes")


@pytest.mark.parametrize(
    ("content", "headers", "status", "text"),
    [
        (b"{", {}, 400, "failed to parse the request JSON buffer"),
        (b"\xff", {}, 400, "failed to parse the request JSON buffer"),
        (b"[" * 5000, {}, 400, "Expected `object`, got `array`"),
        (b"[]", {}, 400, "Expected `object`, got `array`"),
        (b"{}", {}, 400, "missing required field `inputs`"),
        (b"{}", {LENGTH: "3"}, 400, "inference header size should be in range (0, 2), got: 3"),
        (b"{}", {LENGTH: "-1"}, 400, "inference header size should be in range (0, 2), got: -1"),
        (b"{}", {LENGTH: "2" * 5000}, 400, "inference header size"),
        (b"{}", {LENGTH: "0" * 20 + "2" * 5000}, 400, "inference header size"),
        (b"{}", {LENGTH: "0" * 20 + "3"}, 400, "inference header size"),
        (b"{}", {LENGTH: "two"}, 400, "inference header size"),
        (b"{}", {"content-encoding": "br"}, 501, "content encoding 'br' is not supported"),
        (b"{}", {"content-encoding": "gzip"}, 400, "the body is not gzip"),
        (gzip.compress(b"{}", mtime=0)[:-4], {"content-encoding": "gzip"}, 400, "it ends too early"),
        (b"12345", {LENGTH: "0"}, 400, "input byte size mismatch"),
        (b"1234", {LENGTH: "0"}, 400, "must specify a non-zero or non-empty correlation ID"),
        (b"", {LENGTH: "0"}, 400, "must specify a non-zero or non-empty correlation ID"),
    ],
)  # fmt: skip
async def test_bytes_that_are_not_a_request_are_refused(serve, content, headers, status, text):
    async with serve() as service:
        answer = await service.http.post(INFER, content=content, headers=headers)
        assert answer.status_code == status
        if content != b"":
            assert text in answer.json()["error"]
        assert len(service.engine.residents) == 0


RAW, SHARED = {"binary_data_size": 4}, {"shared_memory_region": "x"}
RAGGED = [[1, 2], [3]]
WRONG_INPUTS = [
    ([], 400, "expected 1 inputs but got 0 inputs for model 'sine'"),
    ([tensor([[1]])] * 2, 400, "input 'observations' already exists in request"),
    ([tensor([[1]], name="colour")], 400, "unexpected inference input 'colour' for model 'sine'"),
    ([tensor([[1]], datatype="INT8")], 400, "data-type is 'INT8', but model 'sine' expects 'FP32'"),
    ([tensor([[1]], shape=[1, 1])], 400, "Expected [-1,-1,1], got [1,1]"),
    ([tensor([[1]], shape=[2, 1, 1])], 400, "must specify batch-size 1"),
    ([tensor([[1]], shape=[1, -1, 1])], 400, "Shape does not match true shape of 'data' field"),
    ([tensor([[1]], shape=[1, 0, 1], data=[])], 400, "the chunk is empty"),
    ([tensor([[1]], shape=[1, 10**12, 1])], 400, "Shape does not match true shape"),
    ([tensor([[1]], data=RAGGED)], 400, "Unable to parse 'data'"),
    ([tensor([[1]], data=["one"])], 400, "Unable to parse 'data': Expected"),
    ([tensor([[1]], data=[1e39])], 400, "row 0, column 0 is inf"),
    ([tensor([[1]], data=None)], 400, "either 'data' or 'binary_data_size'"),
    ([tensor([[1]], data=None, parameters=RAW)], 400, "4 additional bytes"),
    ([tensor([[1]], parameters=RAW)], 400, "either 'data' or 'binary_data_size'"),
    ([tensor([[1]], parameters=SHARED)], 501, "shared memory is not supported"),
]
WRONG_OUTPUTS = [
    ({"name": "predictions", "parameters": {"classification": 1}}, 501, "classification is not supported"),
    ({"name": "predictions", "parameters": SHARED}, 501, "shared memory is not supported"),
    ({"name": "lower"}, 400, "unexpected inference output 'lower' for model 'sine'"),
]
WRONG_PARAMETERS = [
    ({}, 400, "must specify a non-zero or non-empty correlation ID"),
    ({"sequence_id": 0}, 400, "must specify a non-zero or non-empty correlation ID"),
    ({"sequence_id": ""}, 400, "must specify a non-zero or non-empty correlation ID"),
    ({"sequence_id": -1}, 400, "Unable to parse 'sequence_id'"),
    ({"sequence_id": 1.5}, 400, "Unable to parse 'sequence_id'"),
    ({"sequence_id": 2**64}, 400, "Unable to parse"),
    ({"sequence_id": "no/slash"}, 400, "invalid session id"),
    (START | {"sequence_end": 1}, 400, "Unable to parse 'sequence_end'"),
    (START | {"at": "0"}, 400, "Unable to parse 'at'"),
    (START | {"at": -1}, 400, "at must be"),
    (START | {"at": 3}, 400, "there is no session '5'"),
    (START | {"horizon": -1}, 400, "horizon must be"),
    (START | {"level": 0.9}, 400, "the session keeps neither intervals nor surprise"),
]
WRONG = [
    *(({"inputs": inputs}, status, text) for inputs, status, text in WRONG_INPUTS),
    *(({"outputs": [entry]}, status, text) for entry, status, text in WRONG_OUTPUTS),
    *(({"parameters": parameters}, status, text) for parameters, status, text in WRONG_PARAMETERS),
]


@pytest.mark.parametrize(("changes", "status", "text"), WRONG)
async def test_a_wrong_request_has_an_error_text_and_changes_nothing(serve, changes, status, text):
    async with serve() as service:
        answer = await ask(service, **changes)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert text in answer.json()["error"]
        assert len(service.engine.residents) == 0


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
async def test_nan_and_infinity_are_not_json(serve, word):
    body = json.dumps({"inputs": [tensor([["?"]])], "parameters": START}).replace('"?"', word)
    async with serve() as service:
        answer = await service.http.post(INFER, content=body)
        assert answer.status_code == 400
        assert "failed to parse the request JSON buffer" in answer.json()["error"]


@pytest.mark.parametrize(
    ("tail", "text"),
    [(b"1234567", "expecting 1 additional bytes"), (b"123456789", "unexpected additional input data")],
)
async def test_a_wrong_number_of_bytes_is_refused(serve, tail, text):
    sent = binary([[0.5], [0.6]], START)
    async with serve() as service:
        answer = await service.http.post(INFER, headers=sent["headers"], content=sent["content"][:-8] + tail)
        assert answer.status_code == 400
        assert text in answer.json()["error"]


async def test_bytes_that_do_not_fit_the_shape_are_refused(serve):
    sent = binary(
        [[0.5], [0.6]], START, inputs=[tensor([[1]], data=None, parameters={"binary_data_size": 8})]
    )
    async with serve() as service:
        answer = await service.http.post(INFER, **sent)
        assert "input byte size mismatch for input 'observations'" in answer.json()["error"]
        assert "Expected 4, got 8" in answer.json()["error"]


async def test_a_raw_body_is_the_input_and_the_query_has_its_parameters(serve, artifacts):
    whole = series("sine", 6)
    query = "?sequence_id=0007&sequence_start=true&at=0&horizon=2&colour=red"
    async with serve() as service:
        answer = await service.http.post(INFER + query, content=whole.tobytes(), headers={LENGTH: "0"})
        assert_allclose(output(answer)[0], one_pass(artifacts["sine"], whole), atol=TOLERANCE)
        assert LENGTH in answer.headers
        assert (await service.session("0007"))["position"] == 6
        bad = await service.http.post(INFER + "?sequence_id=1&at=x", content=b"1234", headers={LENGTH: "0"})
        assert "Unable to parse 'at'" in bad.json()["error"]


async def test_unknown_parameters_are_ignored(serve):
    async with serve() as service:
        answer = await ask(
            service, START | {"priority": 1, "timeout": 9, "colour": "red", "deep": {"a": [1]}}
        )
        assert answer.status_code == 200


async def test_version_1_is_accepted_and_others_are_unknown(serve):
    async with serve() as service:
        body = _body([[0.5]])
        assert (await service.http.post("/v2/models/sine/versions/1/infer", json=body)).status_code == 200
        answer = await service.http.post("/v2/models/sine/versions/2/infer", json=body)
        text = "Request for unknown model: 'sine' version 2 is not found"
        assert (answer.status_code, answer.json()["error"]) == (404, text)


async def test_an_error_has_the_position_of_the_session(serve):
    async with serve() as service:
        await ask(service)
        answer = await ask(service, {"sequence_id": 5, "at": 7})
        assert answer.status_code == 400
        assert answer.json()["problem"]["position"] == 1


async def test_an_overloaded_server_is_unavailable(serve):
    async with serve() as service:
        service.engine.stopping = True
        answer = await ask(service)
        assert (answer.status_code, answer.json()["error"]) == (503, "the server is stopping")
        assert "retry-after" in answer.headers
        service.engine.stopping = False


@pytest.mark.parametrize(
    "path",
    ["/v2/health/live", "/v2/health/ready", "/v2/models/sine/ready", "/v2/models/sine/versions/1/ready"],
)
async def test_health_is_a_status_and_an_empty_body(serve, path):
    async with serve() as service:
        answer = await service.http.get(path)
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", INFER, 405),
        ("POST", "/v2/models/sine/explain", 404),
        ("POST", "/v2", 405),
    ],
)
async def test_unknown_routes_are_refused_in_the_protocols_format(serve, method, path, status):
    async with serve() as service:
        answer = await service.http.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}


async def test_the_index_is_an_array_and_can_list_only_ready_models(serve):
    async with serve() as service:
        await service.http.post("/v2/repository/models/sine/unload")
        every = (await service.http.post("/v2/repository/index")).json()
        ready = (await service.http.post("/v2/repository/index", json={"ready": True})).json()
        assert {entry["name"] for entry in every} - {entry["name"] for entry in ready} == {"sine"}
        assert (await service.http.post("/v2/repository/index", content=b"[]")).status_code == 400
        assert (await service.http.post("/v2/repository/index", content=b"{")).status_code == 400


async def test_pipelined_requests_are_answered_in_their_order(serve):
    async with serve() as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for number in range(20):
            body = json.dumps(
                {"id": str(number), **_body([[0.5]], {"sequence_id": number + 1, "sequence_start": True})}
            )
            writer.write(
                f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\n"
                f"content-length: {len(body)}\r\n\r\n{body}".encode()
            )
        for number in range(20):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert json.loads(await reader.readexactly(length))["id"] == str(number)
        writer.close()


def _body(rows, parameters=START):
    return {"inputs": [tensor(rows)], "parameters": parameters}
