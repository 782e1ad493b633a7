"""The pasts of many sessions in one pool of blocks: each reads back what it was given, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.session.history import (
    BLOCK,
    KEY,
    LENGTH,
    NEXT,
    ROOT,
    SESSION_BYTES,
    USED,
    Histories,
    HistoryPool,
    Observed,
)

MANY = 1 << 20


def shape(inputs: int = 1, outputs: int = 1, kind: Any = np.float32, *, learns: bool = False) -> Any:
    """What `Histories` knows of a forecaster."""
    return SimpleNamespace(
        input_size=inputs,
        output_size=outputs,
        input_type=kind,
        output_type=np.float32,
        learning=SimpleNamespace(tracks_errors=learns),
        artifact=SimpleNamespace(time_features=("hour_of_day",) if learns else (), text=None),
    )


SHAPES = (shape(), shape(3, 2), shape(1, 50), shape(2, 1, np.float64), shape(2, 2, learns=True))


def observed(lengths: list[int], of: Any, rng: np.random.Generator) -> Observed:
    total = sum(lengths)
    numbers = rng.normal(size=(total, of.input_size)).astype(of.input_type)
    predictions = rng.normal(size=(total, of.output_size)).astype(np.float32)
    chunk = Observed(np.array(lengths), numbers, predictions)
    if of.learning.tracks_errors:
        chunk.widths = rng.normal(size=(total, of.output_size)).astype(np.float32)
        chunk.scores = rng.normal(size=total).astype(np.float32)
        chunk.times = 1.7e9 + rng.normal(size=total)
    return chunk


COLUMNS = ("observations", "predictions", "widths", "scores", "times")


class Reference:
    """The pasts of one slab as plain lists: of each row a position and records."""

    def __init__(self) -> None:
        self.positions: dict[int, int] = {}
        self.records: dict[int, list[tuple[Any, ...]]] = {}

    def append(self, rows: list[int], chunk: Observed) -> list[int]:
        stop = 0
        for i, row in enumerate(rows):
            start, stop = stop, stop + int(chunk.lengths[i])
            self.positions[row] = self.positions.get(row, 0) + stop - start
            for k in range(start, stop):
                columns = [getattr(chunk, name) for name in COLUMNS]
                record = tuple(None if column is None else column[k] for column in columns)
                self.records.setdefault(row, []).append(record)
        return [self.positions[row] for row in rows]

    def check(self, histories: Histories, row: int, whole: bool) -> int:
        """Compare what is read with the newest records. Returns how many there are."""
        position = self.positions.get(row, 0)
        past = histories.read(row, position)
        records = self.records.get(row, [])
        if whole:
            assert len(past) == min(len(records), histories.limit)
        assert len(past) <= histories.limit
        assert past.first == position - len(past)
        for i, record in enumerate(records[len(records) - len(past) :]):
            for name, value in zip(COLUMNS, record, strict=True):
                column = getattr(past, name)
                assert (column is None) == (value is None)
                np.testing.assert_array_equal(None if column is None else column[i], value)
        return len(past)


def check_rings(pool: HistoryPool) -> None:
    """Every block in use is in one ring, and the rings have as many blocks as are counted."""
    blocks, seen = pool.blocks, 0
    for root in np.flatnonzero(blocks[:, ROOT] == np.arange(1, len(blocks) + 1)):
        if blocks[root, KEY]:
            block = root
            for _ in range(blocks[root, LENGTH]):
                assert blocks[block, ROOT] == root + 1
                seen, block = seen + 1, blocks[block, NEXT] - 1
            assert block == root
    assert seen == pool.state[USED] <= len(blocks)


SLABS = st.integers(0, len(SHAPES) - 1)
APPENDS = st.tuples(SLABS, st.dictionaries(st.integers(0, 7), st.integers(1, 60), min_size=1))
FORGETS = st.tuples(SLABS, st.integers(0, 7))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([400, 5_000, MANY]),
    st.integers(1, 40),
    st.lists(st.one_of(APPENDS, FORGETS), max_size=40),
)
def test_every_session_reads_back_its_newest_observations(nbytes, limit, steps):
    pool, rng = HistoryPool(limit, nbytes), np.random.default_rng(0)
    slabs = [(pool.histories(of, 8), of, Reference()) for of in SHAPES]
    for slab, change in steps:
        histories, of, reference = slabs[slab]
        if isinstance(change, dict):
            chunk = observed(list(change.values()), of, rng)
            ends = reference.append(list(change), chunk)
            histories.append(np.array(list(change)), np.array(ends), chunk)
        else:
            histories.forget(change)
            reference.records.pop(change, None)
        check_rings(pool)
    for histories, _, reference in slabs:
        for row in range(8):
            reference.check(histories, row, whole=nbytes == MANY)


def test_the_memory_is_bounded_and_the_least_recently_used_lose_theirs():
    pool, rng = HistoryPool(256, 100 * 8 * BLOCK), np.random.default_rng(0)
    histories, reference = pool.histories(shape(), 1000), Reference()
    for round_ in range(20):  # row 0 goes on, and a hundred others come and rest
        for row in (0, *range(1 + 5 * round_, 6 + 5 * round_)):
            chunk = observed([16 if row else 1], shape(), rng)
            ends = reference.append([row], chunk)
            histories.append(np.array([row]), np.array(ends), chunk)
    assert pool.nbytes <= 100 * 8 * BLOCK
    assert reference.check(histories, 0, whole=True) == 20
    kept = [reference.check(histories, row, whole=False) > 0 for row in range(1, 101)]
    assert sum(kept) > 90  # row 0 has two blocks of the hundred
    assert all(kept[-80:])


def test_a_session_that_was_moved_otherwise_begins_a_new_past():
    pool, rng = HistoryPool(256, MANY), np.random.default_rng(0)
    histories = pool.histories(shape(), 8)
    histories.append(np.array([3]), np.array([5]), observed([5], shape(), rng))
    assert len(histories.read(3, 5)) == 5
    assert len(histories.read(3, 6)) == 0
    last = observed([2], shape(), rng)
    histories.append(np.array([3]), np.array([9]), last)
    past = histories.read(3, 9)
    np.testing.assert_array_equal(past.observations, last.observations)
    assert past.first == 7
    check_rings(pool)


def test_a_reset_before_a_chunk_forgets_what_was_before():
    pool, rng = HistoryPool(256, MANY), np.random.default_rng(0)
    histories = pool.histories(shape(), 8)
    histories.append(np.array([0, 1]), np.array([4, 4]), observed([4, 4], shape(), rng))
    chunk = observed([2, 2], shape(), rng)
    chunk.restarts = np.array([True, False])
    histories.append(np.array([0, 1]), np.array([6, 6]), chunk)
    assert [len(histories.read(row, 6)) for row in (0, 1)] == [2, 6]


@pytest.mark.parametrize(("outputs", "kept"), [(1000, 16), (16_000, 1), (20_000, 0)])
def test_wide_predictions_keep_as_many_as_fit_the_bytes_of_a_session(outputs, kept):
    pool, rng = HistoryPool(256, 16 * MANY), np.random.default_rng(0)
    of, reference = shape(1, outputs), Reference()
    histories = pool.histories(of, 8)
    for _ in range(30):
        chunk = observed([1], of, rng)
        histories.append(np.array([5]), np.array(reference.append([5], chunk)), chunk)
    assert reference.check(histories, 5, whole=True) == kept
    assert pool.nbytes <= 2 * SESSION_BYTES


def test_a_selection_of_chunks_has_their_rows():
    chunk = observed([2, 1, 3], shape(2, 2, learns=True), np.random.default_rng(0))
    chunk.restarts = np.array([False, True, False])
    part = chunk.select(np.array([0, 2]))
    assert part.lengths.tolist() == [2, 3]
    assert part.restarts is not None
    assert not part.restarts.any()
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(part, name), getattr(chunk, name)[[0, 1, 3, 4, 5]])
