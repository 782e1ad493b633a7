"""The past of the resident sessions: what each observed and predicted last. It is kept in memory only.

All sessions share one pool of small blocks of numbers. A session has a ring of blocks, which grows as it
observes, up to a limit. Then its oldest block is written over. So a session with few observations costs few
bytes, and a wide one keeps as many observations as the limit of its bytes allows.

When the pool has no free block, the clock algorithm (see `app.session.slab`) chooses a session that has
observed nothing since the hand passed it, and its whole past is dropped.

An observation takes a fixed number of words (four bytes) in its session's ring: the observation, the
prediction of what follows, and for some models the width of the interval, the score and the time. A record
may begin in one block and end in the next.

A ring is known by its first block. The row of the session has the number of that block, and the block has the
number of the row (`key`). If both agree, the ring is the row's. So a ring is dropped without a look at its
row. A ring also has the position of the session after its last observation (`end`). If the session is
anywhere else when it observes again, its past begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from models.arrays import Bools, Bytes, Floats, Int32s, Ints, Numbers, Seconds
from models.forecaster import Forecaster
from models.jit import INT, contiguous, jit, jit_part, readonly

WORDS = 32  # of a block: 16 observations of a model with one input and one output
SESSION_BYTES = 65_536  # most bytes of one session's past
FREE, FRESH, HAND, USED = range(4)  # in `Blocks.state`; see there
ROW_BITS = 32
NOTHING: Floats = np.empty((0, 0), np.float32)

class Blocks(NamedTuple):
    """The pool as arrays, each with an entry per block. Numbers of blocks are one more than the index; 0: none.

    words : [blocks, WORDS], the numbers
    root : the first block of the ring that the block is in
    following : the next newer block of its ring, and behind the newest the oldest; of a free block the next
        free one
    newest, length, written, end, key, used : of a ring, at its first block: its newest block, its number of
        blocks, its records since it began, the session's position after them, its row, and whether it was
        written to since the clock's hand passed
    state : [4]: the first free block, how many blocks were ever used, the clock's hand, and how many blocks
        are in rings
    """

    words: Floats
    root: Int32s
    following: Int32s
    newest: Int32s
    length: Int32s
    written: Ints
    end: Ints
    key: Ints
    used: Bytes
    state: Ints


@dataclass(slots=True)
class Observed:
    """What some sessions observed in one batch, one chunk after the other.

    lengths : [batch], observations of each chunk
    observations, predictions : [total, ...]; NaN where a number was missing
    widths : [total, outputs], half of each interval; NaN where the session wants none; None without learning
    scores : [total], None without learning
    times : [total], of the observations; None without timestamps
    restarts : [batch], whether the session was reset before its chunk; None: none was
    """

    lengths: Ints
    observations: Numbers
    predictions: Numbers
    widths: Floats | None = None
    scores: Floats | None = None
    times: Seconds | None = None
    restarts: Bools | None = None

    def select(self, kept: Ints) -> Observed:
        """The chunks at these indexes, ascending."""
        chosen = np.zeros(len(self.lengths), bool)
        chosen[kept] = True
        rows = np.repeat(chosen, self.lengths)
        columns = (self.observations, self.predictions, self.widths, self.scores, self.times)
        return Observed(
            self.lengths[kept],
            *(None if column is None else column[rows] for column in columns),  # type: ignore[arg-type]
            None if self.restarts is None else self.restarts[kept],
        )


@dataclass(slots=True)
class Past:
    """The last observations of one session, oldest first.

    first : the position of the session before the first of them
    observations, predictions, widths, scores, times : as in `Observed`
    """

    first: int
    observations: Numbers
    predictions: Numbers
    widths: Floats | None
    scores: Floats | None
    times: Seconds | None

    def __len__(self) -> int:
        return len(self.observations)

    def cut(self, start: int, stop: int) -> Past:
        """The observations from index `start` to before index `stop`."""
        part = slice(start, stop)
        return Past(
            self.first + start,
            self.observations[part],
            self.predictions[part],
            None if self.widths is None else self.widths[part],
            None if self.scores is None else self.scores[part],
            None if self.times is None else self.times[part],
        )


class HistoryPool:
    """The memory of all pasts.

    Parameters
    ----------
    observations : that a session keeps at most
    nbytes : limit of the memory, for all sessions together
    """

    def __init__(self, observations: int, nbytes: int) -> None:
        self.observations = observations
        overhead = 4 * np.dtype(np.int32).itemsize + 3 * np.dtype(np.int64).itemsize + 1
        self._block_nbytes = 4 * WORDS + overhead
        size = min(nbytes // self._block_nbytes, 2**31 - 2)
        # Zeros need no memory until they are written: a pool that is not used costs nothing.
        self.blocks = Blocks(
            np.zeros((size, WORDS), np.float32),
            *(np.zeros(size, np.int32) for _ in range(4)),
            *(np.zeros(size, np.int64) for _ in range(3)),
            np.zeros(size, np.uint8),
            np.zeros(4, np.int64),
        )
        self._numbers = count(1)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that pasts take now, dropped ones not counted."""
        return int(self.blocks.state[USED]) * self._block_nbytes

    def histories(self, forecaster: Forecaster, capacity: int) -> Histories:
        """The pasts of the sessions of a slab with `capacity` rows."""
        return Histories(self, forecaster, capacity, next(self._numbers) << ROW_BITS)


class Histories:
    """The pasts of the sessions of one slab, by row.

    Parameters
    ----------
    first_key : of row 0; no other slab has the keys of these rows
    """

    def __init__(self, pool: HistoryPool, forecaster: Forecaster, capacity: int, first_key: int) -> None:
        self._blocks = pool.blocks
        self._first_key = first_key
        self._roots = np.zeros(capacity, np.int32)
        self._inputs, self._outputs = forecaster.input_type, forecaster.output_type
        input_words = forecaster.input_size * (np.dtype(self._inputs).itemsize // 4)
        output_words = forecaster.output_size * (np.dtype(self._outputs).itemsize // 4)
        self._width = forecaster.output_size if forecaster.learning.tracks_errors else 0
        self._has_times = bool(forecaster.artifact.time_features)
        sizes = input_words, output_words, self._width, bool(self._width), 2 * self._has_times
        self._ends: list[int] = np.cumsum(sizes).tolist()
        self.record_words = self._ends[-1]
        self.limit = min(pool.observations, SESSION_BYTES // (4 * self.record_words))
        self._max_blocks = -(-self.limit * self.record_words // WORDS) + 1  # the oldest is partly written over

    def append(self, rows: Ints, ends: Ints, observed: Observed) -> None:
        """Add what the sessions at these rows observed.

        Parameters
        ----------
        rows : [batch], each once
        ends : [batch], the sessions' positions after their chunks
        """
        if observed.restarts is not None:
            for row in rows[observed.restarts].tolist():
                self.forget(row)
        extra = NOTHING
        if self._width or self._has_times:
            extra = self._extra_words(observed)
        observations, predictions = _words(observed.observations), _words(observed.predictions)
        self.append_words(rows, ends, observed.lengths, observations, predictions, extra)

    def append_words(
        self, rows: Ints, ends: Ints, lengths: Ints, observations: Floats, predictions: Floats, extra: Floats
    ) -> None:
        """As `append`, of numbers that are float32 or seen as such, [total, words]."""
        if self.limit:
            _append(
                *self._blocks, self._roots, self._first_key, self.limit, self._max_blocks,
                rows, ends, lengths, observations, predictions, extra,
            )  # fmt: skip

    def forget(self, row: int) -> None:
        """Drop the past of the session at this row."""
        if self._roots[row]:
            _forget(*self._blocks, self._roots, self._first_key, row)

    def read(self, row: int, position: int) -> Past:
        """The past of the session at this row, which is at this position. It is a copy."""
        words = self._words_of(row, position)
        inputs, outputs, widths, score, times = np.split(words, self._ends[:-1], axis=1)
        return Past(
            position - len(words),
            _numbers(inputs, self._inputs),
            _numbers(outputs, self._outputs),
            widths.copy() if self._width else None,
            score[:, 0].copy() if self._width else None,
            _numbers(times, np.float64)[:, 0] if self._has_times else None,
        )

    def _words_of(self, row: int, position: int) -> Floats:
        """[observations, record_words], oldest first."""
        blocks, root = self._blocks, int(self._roots[row]) - 1
        size = self.record_words
        if root < 0 or blocks.key[root] != self._first_key + row or blocks.end[root] != position:
            return np.empty((0, size), np.float32)
        length, written = int(blocks.length[root]), int(blocks.written[root])
        block, indexes = int(blocks.newest[root]) - 1, []
        for _ in range(length):
            block = int(blocks.following[block]) - 1
            indexes.append(block)
        stop = written * size  # in words since the ring began, as are these
        start = max(-(-stop // WORDS) - length, 0) * WORDS
        first = max(-(-start // size), written - self.limit)
        words: Floats = blocks.words[indexes].ravel()[first * size - start : stop - start]
        return words.reshape(-1, size)

    def _extra_words(self, observed: Observed) -> Floats:
        """[total, words]: what a record has behind the prediction; NaN where nothing is known."""
        total, columns = len(observed.observations), []
        for numbers, width in ((observed.widths, self._width), (observed.scores, bool(self._width))):
            columns.append(np.full((total, width), np.nan, np.float32) if numbers is None else numbers)
        if self._has_times:
            times = np.full(total, np.nan) if observed.times is None else observed.times
            columns.append(_words(times[:, None]))
        return np.hstack([column.reshape(total, -1) for column in columns])


def _words(numbers: Numbers) -> Floats:
    """Numbers, [total, n], as float32, or seen as such."""
    if numbers.dtype == np.float32:
        return numbers
    return np.ascontiguousarray(numbers, np.float64).view(np.float32)


def _numbers(words: Floats, kind: Any) -> Any:
    return np.ascontiguousarray(words).view(kind)


_INDEXES = contiguous("int32")
_POOL: Sequence[Any] = (
    contiguous("float32", 2), _INDEXES, _INDEXES, _INDEXES, _INDEXES,
    contiguous("int64"), contiguous("int64"), contiguous("int64"), contiguous("uint8"), contiguous("int64"),
)  # fmt: skip


@jit_part
def _drop(
    root: Int32s, following: Int32s, length: Int32s, key: Ints, state: Ints, ring: int
) -> None:
    """Free the blocks of a ring."""
    block = ring
    for _ in range(length[ring]):
        after = following[block] - 1
        following[block] = state[FREE]
        state[FREE] = block + 1
        block = after
    key[ring] = 0
    state[USED] -= length[ring]


@jit_part
def _take(
    root: Int32s, following: Int32s, length: Int32s, key: Ints, used: Bytes, state: Ints, keep: int
) -> int:
    """A block that is in no ring; -1 if all are in the ring `keep`. Another ring may be dropped for it."""
    if state[FREE] == 0 and state[FRESH] < len(root):
        state[FRESH] += 1
        state[USED] += 1
        return state[FRESH] - 1
    if state[FREE] == 0:
        for _ in range(2 * len(root)):
            ring = root[state[HAND]] - 1
            state[HAND] = (state[HAND] + 1) % len(root)
            if ring == keep:
                continue
            if used[ring]:
                used[ring] = 0
                continue
            _drop(root, following, length, key, state, ring)
            break
    if state[FREE] == 0:
        return -1
    block = state[FREE] - 1
    state[FREE] = following[block]
    state[USED] += 1
    return block


@jit(
    *_POOL, _INDEXES, INT, INT, INT, readonly("int64"), readonly("int64"), readonly("int64"),
    readonly("float32", 2), readonly("float32", 2), readonly("float32", 2),
)  # fmt: skip
def _append(
    words: Floats, root: Int32s, following: Int32s, newest: Int32s, length: Int32s, written: Ints, end: Ints, key: Ints,
    used: Bytes, state: Ints, roots: Int32s, first_key: int, limit: int, max_blocks: int, rows: Ints, ends: Ints,
    lengths: Ints, observations: Floats, predictions: Floats, extra: Floats,
) -> None:  # fmt: skip
    """Write the records of each session behind those it has, of a long chunk only the last."""
    size, inputs, outputs = words.shape[1], observations.shape[1], predictions.shape[1]
    record = inputs + outputs + extra.shape[1]
    start = 0
    for i in range(len(rows)):
        first = start
        start += lengths[i]
        row, own = rows[i], first_key + rows[i]
        ring = roots[row] - 1
        if ring >= 0 and key[ring] != own:
            ring = -1
        if ring >= 0 and (end[ring] != ends[i] - lengths[i] or lengths[i] >= limit):
            _drop(root, following, length, key, state, ring)
            ring = -1
        if ring < 0:
            ring = _take(root, following, length, key, used, state, -1)
            if ring < 0:
                continue
            root[ring] = following[ring] = newest[ring] = ring + 1
            length[ring], written[ring], key[ring] = 1, 0, own
            roots[row] = ring + 1
        block, offset = newest[ring] - 1, (written[ring] * record) % size
        if offset == 0 and written[ring] > 0:
            offset = size
        first = max(first, start - limit)
        for k in range(first, start):
            for word in range(record):
                if offset == size:
                    offset = 0
                    taken = -1
                    if length[ring] < max_blocks:
                        taken = _take(root, following, length, key, used, state, ring)
                    if taken >= 0:
                        root[taken] = ring + 1
                        following[taken] = following[block]
                        following[block] = taken + 1
                        length[ring] += 1
                        block = taken
                    else:  # the oldest block is written over
                        block = following[block] - 1
                if word < inputs:
                    words[block, offset] = observations[k, word]
                elif word < inputs + outputs:
                    words[block, offset] = predictions[k, word - inputs]
                else:
                    words[block, offset] = extra[k, word - inputs - outputs]
                offset += 1
        written[ring] += start - first
        newest[ring], end[ring], used[ring] = block + 1, ends[i], 1


@jit(*_POOL, _INDEXES, INT, INT)
def _forget(
    words: Floats, root: Int32s, following: Int32s, newest: Int32s, length: Int32s, written: Ints, end: Ints, key: Ints,
    used: Bytes, state: Ints, roots: Int32s, first_key: int, row: int,
) -> None:  # fmt: skip
    """Drop the ring of a row, unless it was dropped for another session's."""
    ring = roots[row] - 1
    if ring >= 0 and key[ring] == first_key + row:
        _drop(root, following, length, key, state, ring)
    roots[row] = 0
