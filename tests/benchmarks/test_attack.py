"""The attacks of `make attack`: their bodies are what they claim, and what they measure is noticed."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
from contextlib import suppress

import pyarrow as pa
import pytest

from benchmarks.attack import bodies, damage, keys, page, refusals, smuggling
from benchmarks.attack.__main__ import main
from benchmarks.attack.bombs import BOMBS
from benchmarks.attack.http import CONTINUATION, TEXT, frame
from benchmarks.attack.result import Checks, Result, Run, View, unobserved
from benchmarks.attack.server import Server, Target
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.anyio
MIB = 2**20


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.name)
def test_every_bomb_is_at_most_8_mib(bomb):
    assert 0 < len(bomb.body()) <= 8 * MIB


def test_bombs_are_what_their_names_claim():
    assert set(json.loads(bodies.empty_strings("future", 1000))["future"]) == {""}
    assert len(json.loads(bodies.v2_parameters(1000))["parameters"]) == 1001
    assert len(gzip.decompress(bodies.gzipped_zeros(3 * MIB))) == 3 * MIB
    for encoding in ("dictionary", "run-end"):
        body = bodies.arrow(100, 5000, encoding)
        names = pa.ipc.open_stream(body).read_all()["session"].to_pylist()
        assert (len(names), {len(name) for name in names}) == (100, {5000})
        assert len(body) < 100 * 5000 / 10
    (length,) = struct.unpack_from("<Q", tensors := bodies.state_of_empty_tensors(50))
    assert len(json.loads(tensors[8 : 8 + length])) == 50


async def test_a_changed_state_file_has_a_right_checksum(start_hot):
    async with start_hot() as service:
        await service.advance("donor", [0.1, 0.2])
        state = (await service.http.get("/sessions/donor/state")).content
        changed = bodies.change_state(state, position="7")
        accepted = await service.http.put("/sessions/copy/state", content=changed)
        forged = changed.replace(b'"position":"7"', b'"position":"8"')
        refused = await service.http.put("/sessions/other/state", content=forged)
    assert (accepted.json()["position"], refused.status_code) == (7, 422)


@pytest.fixture(params=["memory"])
def store(request) -> str:
    return request.param


def test_grpc_parameters_are_a_request_of_the_protocol():
    messages = pytest.importorskip("app.open_inference.grpc.messages")
    request = messages.message("ModelInferRequest").FromString(bodies.grpc_parameters(300))
    assert (request.model_name, len(request.parameters)) == ("bench", 300)
    assert request.parameters["p299"].int64_param == 1


def test_a_grpc_chunk_starts_a_sequence_with_one_observation():
    messages = pytest.importorskip("app.open_inference.grpc.messages")
    request = messages.message("ModelInferRequest").FromString(bodies.grpc_chunk(300))
    assert (request.model_name, request.raw_input_contents[:]) == ("bench", [struct.pack("<f", 0.5)])
    assert request.parameters["sequence_id"].int64_param == 300
    assert request.parameters["sequence_start"].bool_param is True
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape[:]) == ("observations", "FP32", [1, 1, 1])


def test_fragments_are_frames_that_only_the_last_ends():
    first, middle, last = (
        frame(TEXT, b"{", final=False),
        frame(CONTINUATION, b"", final=False),
        frame(CONTINUATION, b"}"),
    )
    assert [first[0], middle[0], last[0]] == [TEXT, CONTINUATION, 128 | CONTINUATION]
    assert [data[1] & 127 for data in (first, middle, last)] == [1, 0, 1]


def view(report: dict[str, object], growth: int = 0, noise: float = 5.0) -> View:
    server = Server(None, 1, 2, ROOT, 4096, baseline=100 * MIB, peak=(100 + growth) * MIB)
    return View(server, noise, report)


@pytest.mark.parametrize(
    ("report", "growth", "worked"),
    [
        ({"longest_ms": 250.0, "busiest_ms": 300, "failures": {}}, 256, False),
        ({"longest_ms": 256.0, "busiest_ms": 260, "failures": {}}, 0, True),
        ({"longest_ms": 256.0, "busiest_ms": 20, "failures": {}}, 0, False),  # others used the cores
        ({"longest_ms": 1.0, "failures": {}}, 257, True),
        ({"longest_ms": 1.0, "failures": {"500": 3}}, 0, True),
        ({"longest_ms": 1.0, "failures": {"answer of another session": 1}}, 0, True),
    ],
)
def test_an_attack_that_exceeds_a_bound_or_spoils_an_answer_worked(report, growth, worked):
    assert view(report, growth).result("attack", "bytes", "answered 422").worked is worked


def test_checks_count_what_did_not_hold_and_show_the_first():
    checks = Checks()
    assert checks.worked  # nothing was tried
    checks.expect(True, "unused")
    assert (checks.worked, str(checks)) == (False, "held in 1 of 1 tries")
    for name in "abcd":
        checks.expect(False, name)
    assert (checks.worked, str(checks)) == (True, "did not hold in 4 of 5 tries: a; b; c")


def test_a_row_shows_only_what_was_measured():
    row = page.row(unobserved("a start", "a damaged file", "refused", worked=False))
    assert row == "| a start | a damaged file |  |  |  | refused | no |"


def test_each_damage_changes_the_log(tmp_path):
    for name, apply in damage.DAMAGES.items():
        wal = tmp_path / name
        wal.write_bytes(bytes(1000))
        apply(wal)
        assert not wal.exists() or wal.read_bytes() != bytes(1000)


async def test_a_way_that_is_served_on_is_noticed():
    """The time at which each way was served last, also of one that the server never ends."""
    answers = iter([True, True, False])

    async def ending() -> bool:
        return next(answers)

    async def endless() -> bool:
        await asyncio.sleep(0)
        return True

    ended, running = (asyncio.create_task(keys._last_served(send)) for send in (ending, endless))
    last = await ended
    assert not running.done()
    running.cancel()
    assert await running >= last > 0

    async def never() -> bool:
        return False

    with pytest.raises(RuntimeError, match="not accepted"):
        await keys._last_served(never)


def test_a_table_replaces_its_own_section_and_leaves_the_page(tmp_path):
    path = tmp_path / "security.md"
    path.write_text("# Security\n\ntext\n")
    row = Result("bombs", "8 MiB", 12.0, 10.0, 400.0, 3.0, "answered 413", worked=False)
    page.write_section(page.section([row], "make attack"), path)
    first = path.read_text()
    assert first.startswith("# Security\n\ntext\n\n## Measured attacks\n")
    assert "| bombs | 8 MiB | 12 | 10 | 400 (+3) | answered 413 | no |" in first
    path.write_text(first + "\n## After\n\nmore\n")
    page.write_section(page.section([row, row], "make attack"), path)
    second = path.read_text()
    assert second.count("| bombs |") == 2
    assert second.endswith("\n## After\n\nmore\n")
    assert second.count(page.HEADING) == 1


async def test_a_server_that_closes_while_the_client_sends_is_noticed():
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upload = refusals.Upload("/x", 413, 12 * MIB)
    outcome = await asyncio.to_thread(refusals._post, port, upload, "length")
    server.close()
    assert outcome in ("ConnectionResetError", "BrokenPipeError")


async def test_a_surplus_answer_of_a_smuggled_request_is_noticed():
    """A server that answers the body of an upgrade as a request of its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    tally = smuggling._Tally()
    tally.sent = 1  # the variant whose body follows the head
    await tally.attack(port, asyncio.get_running_loop().time() + 0.05)
    server.close()
    assert tally.surplus >= 1


@pytest.mark.timeout(180)
def test_a_short_run_attacks_a_real_server(capsys):
    assert main(["--only", "fragments", "hosts", "clients", "--scale", "0.01"]) == 0
    output = capsys.readouterr().out
    assert output.count("| held in 20 of 20 tries | no |") == 2  # heads that may be read twice
    assert "| empty WebSocket fragments | 1 message in 602 frames, 4 kB |" in output
    assert output.count("| none | nothing |") == 2


def test_folders_and_counts_of_a_run_are_scaled(tmp_path):
    run = Run(Target(ROOT, tmp_path), tmp_path, scale=0.1)
    assert (run.scaled(1000), run.scaled(1)) == (100, 1)
    assert run.new_folder() != run.new_folder()
