"""The slab: rows are taken, found, given back; the clock lets go of who was not used."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.session.slab import HAND_STEP, Slab
from models.forecaster import Forecaster


@pytest.fixture(scope="module")
def forecaster(artifacts) -> Forecaster:
    return Forecaster(artifacts["partial"])


def filled(forecaster, count: int, capacity: int | None = None) -> Slab:
    slab = Slab(forecaster, capacity or count, 8)
    for i in range(count):
        slab.publish(f"s{i}", slab.take())
    return slab


def rested(slab: Slab) -> Slab:
    """Nobody was used lately."""
    slab.used[: len(slab._owner)] = 0
    return slab


def test_a_row_given_back_is_taken_again_and_empty(forecaster):
    slab = filled(forecaster, 3)
    assert slab.free_rows == 0
    row = slab.index["s1"]
    slab.headers["position"][row], slab.carries[row] = 7, 1.0
    slab.remove("s1")
    assert slab.free_rows == 1
    assert slab.take() == row
    assert slab.headers["position"][row] == 0
    assert not slab.carries[row].any()
    assert "s1" not in slab.index
    assert list(slab.names) == ["s0", "s2"]


def test_reading_rows_copies_them_and_writing_rows_changes_the_slab(forecaster):
    slab = filled(forecaster, 4)
    rows = slab.rows_of(["s3", "s1"])
    values = slab.read(rows)
    values.headers["position"] = [3, 1]
    values.carries[:] = [[3.0], [1.0]]
    values.headers["long_answer_count"] = [0, 1]
    values.long_answers = {1: ({"predictions": np.ones((2, 1), np.float32)},)}
    assert not slab.headers["position"].any()
    slab.write(rows, values)
    assert slab.headers["position"].tolist() == [0, 1, 0, 3]
    assert slab.carries[:, 0].tolist() == [0, 1, 0, 3]
    assert list(slab.read(slab.rows_of(["s0", "s1"])).long_answers) == [1]
    slab.write(rows, slab.read(slab.rows_of(["s0", "s2"])))
    assert slab.long_answers == {}


def test_sessions_not_used_since_the_hand_passed_leave_first(forecaster):
    slab = rested(filled(forecaster, 10))
    used = slab.rows_of(["s0", "s1", "s2", "s5"])
    slab.write(used, slab.read(used))
    assert set(slab.least_recently_used(6)) == {"s3", "s4", "s6", "s7", "s8", "s9"}


def test_a_slab_of_used_rows_still_finds_sessions_to_evict(forecaster):
    assert len(filled(forecaster, 10).least_recently_used(4)) == 4


def test_pinned_rows_never_leave(forecaster):
    slab = rested(filled(forecaster, 10))
    slab.pin(slab.rows_of(["s2", "s3"]))
    assert set(slab.least_recently_used(10)) == {f"s{i}" for i in range(10)} - {"s2", "s3"}
    slab.unpin(slab.rows_of(["s2", "s3"]))
    assert {"s2", "s3"} <= set(slab.least_recently_used(10))


def test_a_row_taken_and_not_yet_published_never_leaves(forecaster):
    slab = filled(forecaster, 3, capacity=4)
    slab.take()
    assert sorted(slab.least_recently_used(4)) == ["s0", "s1", "s2"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_clock_finds_the_requested_number_each_once_after_any_history(artifacts, data):
    slab = filled(Forecaster(artifacts["partial"]), data.draw(st.sampled_from([1, 7, 40])))
    for _ in range(data.draw(st.integers(1, 6))):
        pinned = data.draw(st.lists(st.sampled_from(sorted(slab.index)), unique=True))
        if pinned:
            slab.pin(slab.rows_of(pinned))
        count = data.draw(st.integers(0, len(slab) - len(pinned)))
        found = slab.least_recently_used(count)
        if pinned:
            slab.unpin(slab.rows_of(pinned))
        assert len(set(found)) == len(found) == count
        assert not set(found) & set(pinned)


def test_the_clock_passes_a_slab_larger_than_its_step(forecaster):
    count = 3 * HAND_STEP + 5
    slab = rested(filled(forecaster, count))
    seen = [name for _ in range(5) for name in slab.least_recently_used(count // 5)]
    assert len(set(seen)) == len(seen)


def test_the_sweep_finds_every_expired_row_slice_by_slice(forecaster):
    slab = filled(forecaster, 10, capacity=20)
    slab.headers["deadline"][:10] = [5, 50] * 5
    slab.remove("s0")
    found, place = [], 0
    for _ in range(4):
        names, place = slab.expired(10.0, place, 3)
        found += names
    assert (sorted(found), place) == (["s2", "s4", "s6", "s8"], 0)
