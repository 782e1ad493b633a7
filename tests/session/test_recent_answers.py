"""Remembered answers: the last few chunks are found by where they began, and nothing else is."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.session import recent_answers
from app.session.rows import Rows, header_type
from models.forecaster import Forecaster

CHUNKS = 4


def one_session() -> Rows:
    return Rows(np.zeros(1, header_type(CHUNKS, 2)), np.zeros((1, 3), np.float32))


def apply(rows: Rows, steps: int, digest: int, most_bytes: int = 10**6) -> np.ndarray:
    """As a batch does: advance the position, remember the answer."""
    numbers = np.full((steps, 2), digest, np.float32)
    long = {0: {"predictions": numbers}} if steps > 1 else {}
    rows.headers["position"] += steps
    recent_answers.remember(
        rows, np.array([steps]), np.array([digest], np.uint64), numbers[-1:], long, most_bytes
    )
    return numbers


@settings(max_examples=100, deadline=None)
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_exactly_the_last_chunks_are_found_each_with_its_own_answer(chunks):
    rows, starts = one_session(), np.cumsum([0, *chunks])
    answers = [apply(rows, steps, digest) for digest, steps in enumerate(chunks, 1)]
    for i, steps in enumerate(chunks):
        place = recent_answers.find(rows, 0, int(starts[i]), steps)
        if i < len(chunks) - CHUNKS:
            assert place is None
            continue
        assert place == len(chunks) - 1 - i
        assert recent_answers.digest(rows, 0, place) == i + 1
        np.testing.assert_array_equal(recent_answers.answer(rows, 0, place)["predictions"], answers[i])


@settings(max_examples=100, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    at=st.integers(0, 45),
    length=st.integers(1, 9),
)
def test_nothing_is_found_that_did_not_begin_there_with_that_length(chunks, at, length):
    rows, starts = one_session(), np.cumsum([0, *chunks]).tolist()
    for digest, steps in enumerate(chunks, 1):
        apply(rows, steps, digest)
    there = (at, length) in list(zip(starts, chunks, strict=False))[-CHUNKS:]
    assert (recent_answers.find(rows, 0, at, length) is not None) == there


def test_bytes_are_bound_and_the_newest_always_kept():
    rows = one_session()
    for digest in range(1, 5):
        apply(rows, 10, digest, most_bytes=200)  # 80 bytes each
    assert len(rows.long_answers[0]) == 2
    assert recent_answers.find(rows, 0, 30, 10) == 0
    assert recent_answers.find(rows, 0, 20, 10) == 1
    assert recent_answers.find(rows, 0, 10, 10) is None
    apply(rows, 100, 9, most_bytes=200)
    assert (len(rows.long_answers[0]), recent_answers.find(rows, 0, 40, 100)) == (1, 0)


def test_after_a_reset_no_chunk_from_before_is_found(artifacts):
    forecaster = Forecaster(artifacts["pair"])
    rows = Rows(np.zeros(1, header_type(CHUNKS, 2)), np.ones((1, forecaster.carry_size), np.float32))
    apply(rows, 3, 1)
    recent_answers.reset_sessions(rows, forecaster)
    assert not rows.carries.any()
    assert rows.headers["position"] == 3
    assert recent_answers.find(rows, 0, 0, 3) is None
    assert rows.long_answers == {}
    apply(rows, 1, 2)
    assert recent_answers.find(rows, 0, 3, 1) == 0
    assert recent_answers.find(rows, 0, 0, 3) is None
