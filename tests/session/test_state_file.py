"""A session's file holds all that the session remembers, and nothing damaged or hostile is believed."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from app.errors import Unprocessable
from app.session import state_file
from app.session.state_file import SessionState, decode, encode
from models.forecaster import Forecaster
from tests.helpers.ways import check_problem
from tests.helpers.zoo import TOLERANCE, artifacts, one_pass, series

pytestmark = pytest.mark.anyio

STATE = SessionState(
    session="pump-7",
    model="sine",
    fingerprint="f" * 64,
    position=12,
    since_reset=9,
    created=1.7e9,
    updated=1.7e9 + 5,
    ttl_seconds=float("inf"),
    carry=np.arange(129, dtype=np.float32),
    answers=(
        (
            2,
            2**64 - 1,
            {"predictions": np.ones((2, 1), np.float32), "forecast": np.zeros((3, 1), np.float32)},
        ),
        (1, 5, {"predictions": np.full((1, 1), 0.5, np.float32)}),
    ),
)
FILE = encode(STATE)
FORECASTER = Forecaster(artifacts()["sine"])


def test_a_written_state_file_is_read_back():
    got = decode(FILE)
    for name in (
        "session",
        "model",
        "fingerprint",
        "position",
        "since_reset",
        "created",
        "updated",
        "ttl_seconds",
    ):
        assert getattr(got, name) == getattr(STATE, name)
    assert_array_equal(got.carry, STATE.carry)
    assert [(steps, digest, sorted(answer)) for steps, digest, answer in got.answers] == [
        (2, 2**64 - 1, ["forecast", "predictions"]),
        (1, 5, ["predictions"]),
    ]


def test_a_row_made_of_a_state_gives_the_state_again():
    rows = state_file.rows_of(STATE, 8, FORECASTER)
    again = state_file.state_of("pump-7", "sine", "f" * 64, rows)
    # The order of the metadata is not kept; the checksum is over all of it.
    assert state_file._metadata(encode(again))["checksum"] == state_file._metadata(FILE)["checksum"]


def test_a_slab_that_remembers_fewer_chunks_keeps_the_newest():
    rows = state_file.rows_of(STATE, 1, FORECASTER)
    again = state_file.state_of("pump-7", "sine", "f" * 64, rows)
    assert [steps for steps, _, _ in again.answers] == [2]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_refused(data):
    place = data.draw(st.integers(0, len(FILE) - 1))
    damaged = bytearray(FILE)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Unprocessable):
        decode(bytes(damaged))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(FILE) - 1))
def test_a_truncated_file_is_refused(length):
    with pytest.raises(Unprocessable):
        decode(FILE[:length])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_bytes_at_random_are_refused_and_never_crash(data):
    with pytest.raises(Unprocessable):
        decode(data)


def forged(change: Any) -> bytes:
    """A file with a right checksum and wrong contents."""
    tensors = safetensors.numpy.load(FILE)
    (length,) = struct.unpack_from("<Q", FILE)
    metadata = json.loads(FILE[8 : 8 + length])["__metadata__"]
    metadata.pop("checksum")
    change(tensors, metadata)
    metadata["checksum"] = state_file._checksum(metadata, tensors)
    return safetensors.numpy.save(tensors, metadata)


FORGERIES = {
    "another format": lambda tensors, metadata: metadata.update(format="else"),
    "a newer version": lambda tensors, metadata: metadata.update(version="2"),
    "no session": lambda tensors, metadata: metadata.pop("session"),
    "a position below zero": lambda tensors, metadata: metadata.update(position="-1"),
    "a position beyond all": lambda tensors, metadata: metadata.update(position=str(2**63)),
    "a position in words": lambda tensors, metadata: metadata.update(position="twelve"),
    "more since the reset than ever": lambda tensors, metadata: metadata.update(since_reset="13"),
    "no time": lambda tensors, metadata: metadata.update(created="nan"),
    "a time out of range": lambda tensors, metadata: metadata.update(updated="1e300"),
    "a ttl of nothing": lambda tensors, metadata: metadata.update(ttl_seconds="0"),
    "a carry of doubles": lambda tensors, metadata: tensors.update(carry=tensors["carry"].astype(np.float64)),
    "a carry of two dimensions": lambda tensors, metadata: tensors.update(carry=tensors["carry"][None]),
    "no carry": lambda tensors, metadata: tensors.pop("carry"),
    "chunks longer than the position": lambda tensors, metadata: tensors["recent.steps"].__setitem__(0, 99),
    "a chunk of nothing": lambda tensors, metadata: tensors["recent.steps"].__setitem__(0, 0),
    "a digest too few": lambda tensors, metadata: tensors.update(
        {"recent.digests": tensors["recent.digests"][:1].copy()}
    ),
    "an answer too short": lambda tensors, metadata: tensors.update(
        {"recent.0.predictions": tensors["recent.0.predictions"][:1].copy()}
    ),
    "an answer missing": lambda tensors, metadata: tensors.pop("recent.1.predictions"),
    "an answer too many": lambda tensors, metadata: tensors.update(
        {"recent.7.predictions": np.ones((1, 1), "f4")}
    ),
    "a stowaway": lambda tensors, metadata: tensors.update({"payload": np.ones(3, np.float32)}),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_file_is_refused(change):
    with pytest.raises(Unprocessable):
        decode(forged(change))


def test_a_carry_with_a_nan_is_no_row_of_the_model():
    state = decode(forged(lambda tensors, metadata: tensors["carry"].__setitem__(0, np.nan)))
    with pytest.raises(Unprocessable, match="NaN"):
        state_file.rows_of(state, 8, FORECASTER)


async def state(service: Any, session: str) -> bytes:
    response = await service.http.get(f"/sessions/{session}/state")
    assert response.status_code == 200, response.text
    return response.content


@pytest.mark.parametrize("into", ["same", "other"])
async def test_an_imported_session_goes_on_as_if_nothing_had_happened(start_http, artifacts, into):
    whole = series("pair", 20)
    async with start_http() as service:
        await service.advance("same", whole[:12], model="pair")
        file = await state(service, "same")
        await service.advance("same", whole[:5])
        response = await service.http.put(f"/sessions/{into}/state", content=file)
        assert (response.status_code, response.json()["position"]) == (200, 12)
        got = await service.advance(into, whole[12:], 12, response.json()["epoch"])
    assert_allclose(got.numbers, one_pass(artifacts["pair"], whole)[12:], atol=TOLERANCE, rtol=0)


async def test_an_imported_session_replays_what_the_exported_one_had_answered(start_http):
    async with start_http() as service:
        first = await service.advance("a", [[0.1], [0.2]], 0, horizon=2)
        second = await service.advance("a", [[0.3]], 2)
        await service.http.put("/sessions/b/state", content=await state(service, "a"))
        for rows, at, horizon, before in (([[0.1], [0.2]], 0, 2, first), ([[0.3]], 2, None, second)):
            again = await service.advance("b", rows, at, horizon=horizon)
            assert again.replayed
            assert_array_equal(again.numbers, before.numbers)


async def test_an_import_is_a_new_incarnation(start_http):
    async with start_http() as service:
        old = await service.advance("a", [[0.1]], 0)
        await service.http.put("/sessions/a/state", content=await state(service, "a"))
        late = await service.advance("a", [[0.1]], 0, old.epoch)
        assert late.status == 409


async def test_a_state_of_another_network_is_409_and_a_damaged_one_422_and_nothing_moves(
    start_http, artifacts
):
    async with start_http() as service:
        await service.advance("a", [[0.1]])
        file = await state(service, "a")
        before = await service.session("a")
        other = forged(lambda tensors, metadata: metadata.update(fingerprint="0" * 64))
        small = forged(lambda tensors, metadata: metadata.update(fingerprint=artifacts["pair"].fingerprint))
        for body, status in ((other, 409), (small, 422), (file[:-1], 422), (b"", 422)):
            assert (await service.http.put("/sessions/a/state", content=body)).status_code == status
        assert await service.session("a") == before


async def test_an_import_with_a_position_is_refused_out_of_step(start_http):
    async with start_http() as service:
        await service.advance("a", [[0.1]])
        file = await state(service, "a")
        refused = await service.http.put("/sessions/a/state?at=7", content=file)
        absent = await service.http.put("/sessions/b/state?at=7", content=file)
        assert (refused.status_code, absent.status_code) == (409, 404)


async def test_a_state_of_a_model_that_is_not_loaded_is_refused_with_its_name(start_http):
    async with start_http() as service:
        await service.advance("a", [[0.1]])
        written = replace(decode(await state(service, "a")), fingerprint="0" * 64)
        refused = await service.http.put("/sessions/b/state", content=encode(written))
        problem = check_problem(refused)
        assert problem["detail"] == (
            "the state belongs to model 'sine' of fingerprint 000000000000, which is not loaded"
        )


async def test_a_state_can_be_put_over_a_session_of_another_model(start_http):
    async with start_http() as service:
        await service.advance("a", [[0.1]])
        await service.advance("b", [[1.0, 2.0, 3.0]], model="pair")
        response = await service.http.put("/sessions/b/state", content=await state(service, "a"))
        assert (response.json()["model"], response.json()["position"]) == ("sine", 1)
        assert (await service.advance("b", [[0.2]], 1)).status == 200
        listed = (await service.http.get("/sessions")).json()["sessions"]
        assert [one["session"] for one in listed] == ["a", "b"]
