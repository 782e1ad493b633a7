"""Digests differ for different chunks, and do not depend on the neighbours in the batch."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.session.digest import digests

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def digest(rows, horizon: int = 0) -> int:
    chunk = np.array(rows, np.float32)
    return int(digests(chunk, np.array([len(chunk)]), horizon)[0])


@settings(max_examples=100, deadline=None)
@given(chunks=st.lists(st.lists(st.tuples(floats, floats), min_size=1, max_size=4), min_size=1, max_size=6))
def test_a_chunk_has_the_same_digest_alone_and_among_others(chunks):
    lengths = np.array([len(chunk) for chunk in chunks])
    together = digests(np.concatenate([np.array(chunk, np.float32) for chunk in chunks]), lengths)
    assert together.tolist() == [digest(chunk) for chunk in chunks]


@settings(max_examples=200, deadline=None)
@given(first=st.lists(floats, min_size=1, max_size=5), second=st.lists(floats, min_size=1, max_size=5))
def test_different_chunks_differ(first, second):
    bits = [np.array(chunk, np.float32).tobytes() for chunk in (first, second)]
    assert (digest([[x] for x in first]) == digest([[x] for x in second])) == (bits[0] == bits[1])


def test_order_shape_horizon_and_trailing_zeros_count():
    chunks = [[[1.0], [2.0]], [[2.0], [1.0]], [[1.0]], [[1.0], [2.0], [0.0]], [[0.0]], [[0.0], [0.0]]]
    found = [digest(chunk) for chunk in chunks] + [digest(chunks[0], 1), digest(chunks[0], 2)]
    assert len(set(found)) == len(found)
