"""A valid chunk is decoded exactly; any other body is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.codec import answers, chunks, limits
from app.errors import CarryoverError, TooLarge
from app.jobs.answers import ChunkAnswer, epoch_token, parse_epoch

LIMITS = limits.Limits(observations=100, steps=50, inputs=3)
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 4), data=st.data())
def test_float32_numbers_come_in_and_go_out_exactly(width, data):
    rows = data.draw(st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=5))
    chunk = chunks.decode_chunk(json.dumps({"observations": rows}).encode(), LIMITS)
    np.testing.assert_array_equal(chunk.observations, np.array(rows, np.float32))
    answer = ChunkAnswer("s", "m", 5, 255, False, {"predictions": chunk.observations})
    answer_read = json.loads(answers.encode_chunk_answer(answer, flat=False))
    np.testing.assert_array_equal(np.array(answer_read["predictions"], np.float32), chunk.observations)
    assert (answer_read["epoch"], answer_read["position"]) == ("00000000000000ff", 5)


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_chunk_or_refused_and_never_crash(body):
    check_decoded_or_refused(body)


@settings(max_examples=300, deadline=None)
@given(rows=anything, at=anything, epoch=anything, horizon=anything)
def test_any_value_in_any_field_is_a_chunk_or_a_clear_refusal(rows, at, epoch, horizon):
    body = json.dumps({"observations": rows, "at": at, "epoch": epoch, "horizon": horizon}).encode()
    check_decoded_or_refused(body)


def check_decoded_or_refused(body: bytes) -> None:
    try:
        chunk = chunks.decode_chunk(body, LIMITS)
    except CarryoverError:
        return
    assert len(chunk.observations)
    missing = np.isnan(chunk.observations) if chunk.options is not None and chunk.options.gaps else False
    assert (np.isfinite(chunk.observations) | missing).all()


@given(epoch=st.integers(1, 2**64 - 1))
def test_an_epoch_is_parsed_as_it_was_written(epoch):
    assert parse_epoch(epoch_token(epoch)) == epoch


@pytest.mark.parametrize("text", ["", "0", "x" * 16, "1" * 17, "1" * 15, "é" * 16])
def test_an_invalid_epoch_is_parsed_as_an_epoch_that_no_session_has(text):
    assert parse_epoch(text) % 2 == 0  # the epochs of sessions are odd
    assert parse_epoch(text) != 0  # 0 would mean no precondition


def test_a_body_of_too_many_numbers_is_refused_before_it_is_parsed():
    body = b'{"observations": [' + b"1," * 100_000 + b"this is never parsed"
    with pytest.raises(TooLarge):
        chunks.decode_chunk(body, LIMITS)
