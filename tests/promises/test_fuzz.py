"""Every parser of bytes from outside reads damaged and random bodies, or refuses them.

Nothing else may happen: no other error, no number that is not finite, no array larger than the body.
`ATTACKS=100000 make test ARGS=tests/promises/test_fuzz.py` tries longer.
"""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.access import keys
from app.codec import bulk, chunks, frames, limits
from app.codec.bulk.session_lists import SessionListCache
from app.errors import CarryoverError
from app.session import state_file
from models.artifact import files
from models.errors import ModelsError
from tests.helpers import binary

EXAMPLES = int(os.environ.get("ATTACKS", "60"))
LIMITS = limits.Limits(100, 100, 3)
BULK = bulk.BulkDecoder(bulk.BulkLimits(50, LIMITS), SessionListCache())
MOST_BYTES = 20_000_000  # that one body of a few kilobytes may make a parser use

CHUNKS = [
    b'{"observations": [[0.1, -2e3], [3, 4]], "at": 7, "epoch": "00000000000000ff", "horizon": 3}',
    b'{"observations": [1, 2.5, -3e-7]}',
    b'{"observations": [[0.1]], "observations": [["x"]], "at": 18446744073709551616}',
]
MESSAGES = [b'{"session": "a", "tag": [1], "observations": [1]}', b'{"reset": true, "session": "a"}']
FRAMES = [
    frames.HEADER.pack(1, 0, 2, 3, -1, 255) + b"a\0\0\0" + np.arange(4, dtype="<f4").tobytes(),
    frames.HEADER.pack(0, 0, 1, 0, 5, 0) + np.arange(3, dtype="<f4").tobytes(),
]
COLUMNS = [
    b'{"sessions": ["a", "b"], "observations": [0.1, 0.2], "epochs": [null, "00000000000000ff"]}',
    b'{"sessions": ["a"], "observations": [[[0.1], [0.2]]], "model": "sine"}',
]
PACKED = [
    binary.encode(["a", "bc"], [np.ones((1, 2), np.float32), np.ones((2, 2), np.float32)], [-1, 4], [0, 9]),
    binary.encode(["a"], [np.ones((1, 1), np.float32)], model="sine"),
]


def arrow_streams() -> list[bytes]:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"session": ["a", "b"], "observations": [[0.1], [0.3]], "at": [0, None]})
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return [out.getvalue().to_pybytes()]


def state_files() -> list[bytes]:
    state = state_file.SessionState(
        "a", "m", "f" * 64, 3, 3, 1.0, 2.0, 60.0, np.ones(5, np.float32), [(2, 7, {"predictions": _twos()})]
    )
    return [state_file.encode(state)]


def _twos() -> np.ndarray:
    return np.full((2, 1), 2, np.float32)


def chunk(body: bytes) -> Any:
    return chunks.decode_chunk(body, LIMITS).observations


def text_message(body: bytes) -> Any:
    chunk = frames.decode_text(body, None, LIMITS).chunk
    return None if chunk is None else chunk.observations


def binary_message(body: bytes) -> Any:
    chunk = frames.decode_binary(body, None, LIMITS).chunk
    return None if chunk is None else chunk.observations


def bulk_body(content_type: str) -> Callable[[bytes], Any]:
    def parse(body: bytes) -> Any:
        parsed = BULK.decode(body, content_type, "")
        for _, job in parsed.jobs:
            assert job.lengths.sum() == len(job.observations)
        return np.concatenate([job.observations.ravel() for _, job in parsed.jobs] or [np.empty(0)])

    return parse


def a_state_file(body: bytes) -> Any:
    state = state_file.decode(body)
    assert state.position >= 0
    return state.carry


# To add a parser: how it is called, and bytes that it understands.
PARSERS: dict[str, tuple[Callable[[bytes], Any], Callable[[], list[bytes]]]] = {
    "chunk": (chunk, lambda: CHUNKS),
    "text message": (text_message, lambda: MESSAGES + CHUNKS),
    "binary message": (binary_message, lambda: FRAMES),
    "bulk json": (bulk_body("application/json"), lambda: COLUMNS),
    "bulk binary": (bulk_body("application/octet-stream"), lambda: PACKED),
    "bulk arrow": (bulk_body("application/vnd.apache.arrow.stream"), arrow_streams),
    "state file": (a_state_file, state_files),
}

NASTY = [
    b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"NaN", b"Infinity",
    b"-0", b"1e400", b"9" * 400, b"[" * 2000, b"{" * 999, b'"', b"\\ud800", b"\xed\xa0\x80", b"null", b"true",
    b"\n", struct.pack("<Q", 2**63), struct.pack("<d", float("nan")), struct.pack("<f", float("inf")),
    b"../", b"'", b"\r\n",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds, after a few blows: bytes changed, cut out, put in, doubled, cut off."""
    body = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        blow = draw(st.integers(0, 4))
        if blow == 0 and at < len(body):
            body[at] = draw(st.integers(0, 255))
        elif blow == 1:
            del body[at : at + draw(st.integers(1, 8))]
        elif blow == 2:
            body[at:at] = draw(st.sampled_from(NASTY))
        elif blow == 3:
            body[at:at] = body[at : at + draw(st.integers(1, 40))]
        else:
            del body[at:]
    return bytes(body)


def long(examples: int = EXAMPLES) -> settings:
    return settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


# The numbers that each parser must read from the first of its seeds.
UNDERSTOOD = {
    "chunk": [[0.1, -2000.0], [3.0, 4.0]],
    "text message": [[1.0]],
    "binary message": [[0.0, 1.0], [2.0, 3.0]],
    "bulk json": [0.1, 0.2],
    "bulk binary": [1.0] * 6,
    "bulk arrow": [0.1, 0.3],
    "state file": [1.0] * 5,
}


@pytest.mark.parametrize("name", PARSERS)
def test_the_numbers_of_a_valid_body_are_read_as_they_were_sent(name):
    parse, seeds = PARSERS[name]
    np.testing.assert_array_equal(parse(seeds()[0]), np.array(UNDERSTOOD[name], np.float32))


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_damaged_body_is_read_or_refused_within_bounds(name):
    parse, seeds = PARSERS[name]

    @long()
    @given(body=st.one_of(mutated(seeds()), st.binary(max_size=300)))
    def attack(body):
        try:
            parsed = parse(body)
        except CarryoverError as error:
            parsed = json.dumps([error.detail, error.extra])
            assert len(parsed) < 8000
        else:
            assert parsed is None or np.isfinite(parsed).all()

    parse(seeds()[0])  # imports and caches are no part of what an attack uses
    tracemalloc.start()
    try:
        attack()
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


ARTIFACT_FILES = ("weights.safetensors", "model.json")


class TestArtifacts:
    """A folder that somebody sent."""

    @pytest.fixture
    def folder(self, zoo_folder, tmp_path) -> Path:
        parsed = tmp_path / "sent"
        parsed.mkdir()
        for name in ARTIFACT_FILES:
            (parsed / name).write_bytes((zoo_folder / "sine" / name).read_bytes())
        return parsed

    @pytest.mark.parametrize("name", ARTIFACT_FILES)
    def test_an_artifact_with_changed_files_is_loaded_as_it_is_or_refused(self, folder, name):
        whole = (folder / name).read_bytes()
        expected = files.load(folder).fingerprint

        @long(max(EXAMPLES // 3, 20))
        @given(body=mutated([whole]))
        def attack(body):
            (folder / name).write_bytes(body)
            try:
                parsed = files.load(folder)
            except ModelsError:
                return
            assert parsed.fingerprint == expected  # the weights and shapes that it says are those that it has

        attack()

    def test_an_artifact_that_claims_to_be_enormous_is_refused_before_memory_is_taken(self, folder):
        parsed = json.loads((folder / "model.json").read_text())
        for changes in (
            {"hidden_size": 10**9},
            {"num_layers": 10**9},
            {"hidden_size": 2**63},
            {"hidden_size": True},
        ):
            (folder / "model.json").write_text(json.dumps(parsed | changes))
            tracemalloc.start()
            with pytest.raises(ModelsError):
                files.load(folder)
            assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
            tracemalloc.stop()

    def test_weights_whose_header_claims_gigabytes_are_refused(self, folder):
        header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
        for claimed in (struct.pack("<Q", len(header)), struct.pack("<Q", 2**60)):
            (folder / "weights.safetensors").write_bytes(claimed + header)
            with pytest.raises(ModelsError):
                files.load(folder)

    def test_a_state_file_whose_header_claims_gigabytes_is_refused(self):
        header = json.dumps(
            {"carry": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
        ).encode()
        with pytest.raises(CarryoverError):
            state_file.decode(struct.pack("<Q", len(header)) + header)

    def test_a_state_file_of_ten_thousand_tensors_is_refused(self):
        tensors = {f"recent.{i}.predictions": np.zeros((1, 1), np.float32) for i in range(10_000)}
        with pytest.raises(CarryoverError):
            state_file.decode(safetensors.numpy.save(tensors, {"format": "carryover-session"}))

    def test_links_out_of_the_folder_load_nothing_else(self, folder, tmp_path):
        secret = tmp_path / "secret"
        secret.write_text("hidden:x:0:0")
        (folder / "model.json").unlink()
        (folder / "model.json").symlink_to(secret)
        with pytest.raises(ModelsError) as refused:
            files.load(folder)
        assert "hidden" not in str(refused.value)


def test_a_keys_file_of_anything_is_read_or_refused(tmp_path):
    path = tmp_path / "keys.json"
    keys.write(path, [keys.generate_key("a")[0], keys.generate_key("b", role="admin")[0]])
    whole = path.read_bytes()

    @long()
    @given(body=mutated([whole]))
    def attack(body):
        path.write_bytes(body)
        try:
            parsed = keys.read(path)
        except CarryoverError:
            return
        assert all(keys.NAME.fullmatch(key.name) and "/" not in key.tenant for key in parsed)

    attack()
