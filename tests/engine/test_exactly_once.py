"""The rules of exactly once, one session at a time."""

import numpy as np
import pytest

from app.engine import exactly_once
from app.errors import OutOfStep, SessionGone, UnknownSession
from app.session.slab import Slab
from app.stores import Tombstone
from models.forecaster import Forecaster
from tests.session.test_recent_answers import apply, one_session


def test_no_claim_is_always_in_step():
    exactly_once.check_epoch("a", 5, None, 3)
    exactly_once.check_position("a", 5, None)
    exactly_once.check_epoch("a", 5, 5, 3)
    exactly_once.check_position("a", 5, 5)


def test_a_wrong_claim_is_refused_with_the_right_value():
    with pytest.raises(OutOfStep) as refused:
        exactly_once.check_position("a", 5, 4)
    assert refused.value.extra["position"] == 5
    with pytest.raises(OutOfStep) as refused:
        exactly_once.check_epoch("a", 255, 1, 3)
    assert refused.value.extra == {"epoch": "00000000000000ff", "position": 3}


@pytest.fixture
def slab(artifacts):
    return Slab(Forecaster(artifacts["sine"]), 1, 4)


def test_a_chunk_applied_before_is_answered_with_the_position_after_it(slab):
    rows = one_session()
    first = apply(rows, 3, digest=11)
    apply(rows, 2, digest=12)
    found = exactly_once.stored_answer("a", slab, rows, 0, 0, None, 3, 11)
    assert (found.position, found.replayed) == (3, True)
    np.testing.assert_array_equal(found.answer["predictions"], first)


@pytest.mark.parametrize(
    ("at", "length", "digest"), [(0, 3, 99), (0, 2, 11), (1, 2, 11), (5, 1, 0), (6, 1, 0)]
)
def test_a_chunk_that_differs_in_position_length_or_digest_is_out_of_step(slab, at, length, digest):
    rows = one_session()
    apply(rows, 3, digest=11)
    apply(rows, 2, digest=12)
    with pytest.raises(OutOfStep) as refused:
        exactly_once.stored_answer("a", slab, rows, 0, at, None, length, digest)
    assert refused.value.extra["position"] == 5


def test_a_missing_session_is_unknown_or_gone_with_its_last_position():
    assert isinstance(exactly_once.missing_session_error("a", None), UnknownSession)
    gone = exactly_once.missing_session_error("a", Tombstone("a", 7, "expired", 0.0))
    assert isinstance(gone, SessionGone)
    assert gone.extra == {"position": 7, "reason": "expired"}
