"""The past of the resident sessions: what each observed and predicted last. It is kept in memory only.

All sessions share one pool of small blocks of numbers. A session has a ring of blocks, which grows as it
observes, up to a limit. Then its oldest block is written over. So a session with few observations costs few
bytes, and a wide one keeps as many observations as the limit of its bytes allows.

When the pool has no free block, a few sessions are looked at, and the whole past of the one that observed
least recently is dropped. Redis chooses keys to evict in this way, which needs no list of all of them.

An observation takes a fixed number of words (four bytes) in its session's ring: the observation, the
prediction of what follows, and for some models the interval's width, the surprise and the time. Of a model
of text it is the token alone: the logits would be nearly all of it, and nobody reads them as numbers. A
record may begin in one block and end in the next.

A ring is known by its first block. The row of the session has the number of that block, and the block has the
number of the row. If both agree, the ring is the row's. So a ring is dropped without a look at its row. A
ring also has the position of the session after its last observation. If the session is
anywhere else when it observes again, its past begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from models.arrays import Bools, Floats, Int32s, Ints, Numbers, Seconds
from models.forecaster import Forecaster
from models.jit import INT, contiguous, jit, jit_part, readonly

WORDS = 32  # of a block: 16 observations of a model with one input and one output
SESSION_BYTES = 65_536  # most bytes of one session's past
TEXT_FACTOR = 16  # a session of a model of text keeps so many times as many observations: each is one number
ROW_BITS = 32
NOTHING: Floats = np.empty((0, 0), np.float32)

# A block is a head of 8 whole numbers, which are one line of the processor's cache, and its words. The number
# of a block is its index and one; 0 is none.
#   ROOT     the first block of the ring that it is in
#   NEXT     the next newer block of its ring, and behind the newest the oldest; of a free block the next free
# and of a ring, in the head of its first block:
#   NEWEST, LENGTH   its newest block, and how many it has
#   WRITTEN, END     its records since it began, and the session's position after them
#   KEY              the row that it belongs to; 0 for none
#   SEEN             when it was last written to: the count of writes to the pool
ROOT, NEXT, NEWEST, LENGTH, WRITTEN, END, KEY, SEEN = range(8)
HEAD = 8  # whole numbers of a head
HEAD_WORDS = 2 * HEAD
BLOCK = HEAD + WORDS // 2  # whole numbers of a block
LINE = 64  # bytes of a line of the cache

# The state of a pool: its first free block, how many were ever used, the block to look at next when none is
# free, how many are in rings, and how often the pool was written to.
FREE, FRESH, HAND, USED, NOW = range(5)
SAMPLES = 8  # blocks whose sessions are compared before one is dropped


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
        return Observed(
            self.lengths[kept],
            self.observations[rows],
            self.predictions[rows],
            None if self.widths is None else self.widths[rows],
            None if self.scores is None else self.scores[rows],
            None if self.times is None else self.times[rows],
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
        size = nbytes // (8 * BLOCK)
        # Zeros need no memory until they are written: a pool that is not used costs nothing.
        numbers = np.zeros(size * BLOCK + LINE // 8, np.int64)
        start = -numbers.ctypes.data % LINE // 8
        self.blocks = numbers[start : start + size * BLOCK].reshape(size, BLOCK)
        self.words = self.blocks.view(np.float32)  # of each block, HEAD_WORDS that are the head, and WORDS
        self.state = np.zeros(5, np.int64)
        self._slabs = count(1)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that pasts take now, dropped ones not counted."""
        return int(self.state[USED]) * 8 * BLOCK

    def histories(self, forecaster: Forecaster, capacity: int) -> Histories:
        """The pasts of the sessions of a slab with `capacity` rows."""
        return Histories(self, forecaster, capacity, next(self._slabs) << ROW_BITS)


class Rings(NamedTuple):
    """Where the pasts of a slab's sessions are, as `append_records` takes it.

    first_key : of row 0; no other slab has the keys of these rows
    limit : observations of a past; 0: none is kept
    max_blocks : of a ring
    outputs : words of a prediction that are kept
    """

    blocks: Ints
    words: Floats
    state: Ints
    roots: Int32s
    first_key: int
    limit: int
    max_blocks: int
    outputs: int


NO_RINGS = Rings(
    np.empty((0, 0), np.int64), NOTHING, np.empty(0, np.int64), np.empty(0, np.int32), 0, 0, 0, 0
)


class Histories:
    """The pasts of the sessions of one slab, by row.

    Parameters
    ----------
    first_key : of row 0; no other slab has the keys of these rows
    """

    def __init__(self, pool: HistoryPool, forecaster: Forecaster, capacity: int, first_key: int) -> None:
        self._pool = pool
        self._first_key = first_key
        self._roots = np.zeros(capacity, np.int32)
        self._inputs, self._outputs = forecaster.input_type, forecaster.output_type
        input_words = forecaster.input_size * (np.dtype(self._inputs).itemsize // 4)
        is_text = forecaster.artifact.text is not None
        output_words = 0
        if not is_text:
            output_words = forecaster.output_size * (np.dtype(self._outputs).itemsize // 4)
        self._width = forecaster.output_size if forecaster.learning.tracks_errors else 0
        self._has_times = bool(forecaster.artifact.time_features)
        sizes = input_words, output_words, self._width, bool(self._width), 2 * self._has_times
        self._ends: list[int] = np.cumsum(sizes).tolist()
        self.record_words = self._ends[-1]
        most = pool.observations * (TEXT_FACTOR if is_text else 1)
        self.limit = min(most, SESSION_BYTES // (4 * self.record_words))
        max_blocks = -(-self.limit * self.record_words // WORDS) + 1  # the oldest is partly written over
        self.rings = Rings(
            pool.blocks, pool.words, pool.state, self._roots, first_key, self.limit, max_blocks, output_words
        )

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
        observations, predictions = as_words(observed.observations), as_words(observed.predictions)
        self.append_words(rows, ends, observed.lengths, observations, predictions, extra)

    def append_words(
        self, rows: Ints, ends: Ints, lengths: Ints, observations: Floats, predictions: Floats, extra: Floats
    ) -> None:
        """As `append`, of numbers that are float32 or seen as such, [total, words]."""
        if self.limit:
            append_records(*self.rings, rows, ends, lengths, observations, predictions, extra)

    def forget(self, row: int) -> None:
        """Drop the past of the session at this row."""
        if self._roots[row]:
            _forget(self._pool.blocks, self._pool.state, self._roots, self._first_key, row)

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
        blocks, root = self._pool.blocks, int(self._roots[row]) - 1
        size = self.record_words
        if root < 0 or blocks[root, KEY] != self._first_key + row or blocks[root, END] != position:
            return np.empty((0, size), np.float32)
        length, written = int(blocks[root, LENGTH]), int(blocks[root, WRITTEN])
        block, indexes = int(blocks[root, NEWEST]) - 1, []
        for _ in range(length):
            block = int(blocks[block, NEXT]) - 1
            indexes.append(block)
        stop = written * size  # in words since the ring began, as are these
        start = max(-(-stop // WORDS) - length, 0) * WORDS
        first = max(-(-start // size), written - self.limit)
        words: Floats = self._pool.words[indexes, HEAD_WORDS:].ravel()[first * size - start : stop - start]
        return words.reshape(-1, size)

    def _extra_words(self, observed: Observed) -> Floats:
        """[total, words]: what a record has behind the prediction; NaN where nothing is known."""
        total, columns = len(observed.observations), []
        for numbers, width in ((observed.widths, self._width), (observed.scores, bool(self._width))):
            columns.append(np.full((total, width), np.nan, np.float32) if numbers is None else numbers)
        if self._has_times:
            times = np.full(total, np.nan) if observed.times is None else observed.times
            columns.append(as_words(times[:, None]))
        return np.hstack([column.reshape(total, -1) for column in columns])


def as_words(numbers: Numbers) -> Floats:
    """Numbers, [total, n], as float32, or seen as such."""
    if numbers.dtype == np.float32:
        return numbers
    return np.ascontiguousarray(numbers, np.float64).view(np.float32)


def _numbers(words: Floats, kind: Any) -> Any:
    return np.ascontiguousarray(words).view(kind)


@jit_part
def _drop(blocks: Ints, state: Ints, ring: int) -> None:
    """Free the blocks of a ring."""
    block, length = ring, blocks[ring, LENGTH]
    for _ in range(length):
        after = blocks[block, NEXT] - 1
        blocks[block, NEXT] = state[FREE]
        state[FREE] = block + 1
        block = after
    blocks[ring, KEY] = 0
    state[USED] -= length


@jit_part
def _take(blocks: Ints, state: Ints, keep: int) -> int:
    """A block that is in no ring; -1 if all are in the ring `keep`. Another ring may be dropped for it."""
    block: int
    if state[FREE] == 0 and state[FRESH] < len(blocks):
        block = state[FRESH]
        state[FRESH] += 1
        state[USED] += 1
        return block
    if state[FREE] == 0:
        oldest = -1
        for i in range(len(blocks)):
            if i >= SAMPLES and oldest >= 0:
                break
            ring = blocks[state[HAND], ROOT] - 1
            state[HAND] = (state[HAND] + 1) % len(blocks)
            if ring != keep and (oldest < 0 or blocks[ring, SEEN] < blocks[oldest, SEEN]):
                oldest = ring
        if oldest < 0:
            return -1
        _drop(blocks, state, oldest)
    block = state[FREE] - 1
    state[FREE] = blocks[block, NEXT]
    state[USED] += 1
    return block


@jit_part
def _next_block(blocks: Ints, state: Ints, ring: int, block: int, max_blocks: int) -> int:
    """The block to write to behind the newest block of a ring: another one, or its oldest."""
    taken, oldest = -1, blocks[block, NEXT] - 1
    if blocks[ring, LENGTH] < max_blocks:
        taken = _take(blocks, state, ring)
    if taken < 0:
        return int(oldest)
    blocks[taken, ROOT] = ring + 1
    blocks[taken, NEXT] = blocks[block, NEXT]
    blocks[block, NEXT] = taken + 1
    blocks[ring, LENGTH] += 1
    return taken


@jit_part
def _ring_of(blocks: Ints, state: Ints, roots: Int32s, row: int, key: int, start: int, is_long: bool) -> int:
    """The ring of a row whose session is at position `start`; a new one if it has none; -1: no memory.

    The ring is also new if the chunk is so long that nothing else would be left in it.
    """
    ring: int = roots[row] - 1
    if ring >= 0 and blocks[ring, KEY] == key:
        if blocks[ring, END] == start and not is_long:
            return ring
        _drop(blocks, state, ring)
    ring = _take(blocks, state, -1)
    if ring >= 0:
        blocks[ring, ROOT] = blocks[ring, NEXT] = blocks[ring, NEWEST] = ring + 1
        blocks[ring, LENGTH], blocks[ring, WRITTEN], blocks[ring, KEY] = 1, 0, key
        blocks[ring, SEEN] = state[NOW]
    roots[row] = ring + 1
    return ring


@jit(
    contiguous("int64", 2), contiguous("float32", 2), contiguous("int64"), contiguous("int32"),
    INT, INT, INT, INT, readonly("int64"), readonly("int64"), readonly("int64"),
    readonly("float32", 2), readonly("float32", 2), readonly("float32", 2),
)  # fmt: skip
def append_records(
    blocks: Ints, words: Floats, state: Ints, roots: Int32s, first_key: int, limit: int, max_blocks: int,
    outputs: int, rows: Ints, ends: Ints, lengths: Ints, observations: Floats, predictions: Floats,
    extra: Floats,
) -> None:  # fmt: skip
    """Write the records of each session behind those it has, of a long chunk only the last.

    The first arguments are those of `Rings`, the others as in `Histories.append_words`.
    """
    block_end, inputs = words.shape[1], observations.shape[1]
    record = inputs + outputs + extra.shape[1]
    stop = 0
    state[NOW] += 1
    for i in range(len(rows)):
        length = lengths[i]
        stop += length
        row = rows[i]
        ring = _ring_of(blocks, state, roots, row, first_key + row, ends[i] - length, length >= limit)
        if ring < 0:
            continue
        written = blocks[ring, WRITTEN]
        block, offset = blocks[ring, NEWEST] - 1, HEAD_WORDS + written * record % WORDS
        if offset == HEAD_WORDS and written > 0:
            offset = block_end
        first = stop - min(length, limit)
        for k in range(first, stop):
            for word in range(record):
                if offset == block_end:
                    block, offset = _next_block(blocks, state, ring, block, max_blocks), HEAD_WORDS
                if word < inputs:
                    words[block, offset] = observations[k, word]
                elif word < inputs + outputs:
                    words[block, offset] = predictions[k, word - inputs]
                else:
                    words[block, offset] = extra[k, word - inputs - outputs]
                offset += 1
        blocks[ring, WRITTEN] = written + stop - first
        blocks[ring, NEWEST], blocks[ring, END], blocks[ring, SEEN] = block + 1, ends[i], state[NOW]


@jit(contiguous("int64", 2), contiguous("int64"), contiguous("int32"), INT, INT)
def _forget(blocks: Ints, state: Ints, roots: Int32s, first_key: int, row: int) -> None:
    """Drop the ring of a row, unless it was dropped for another session's."""
    ring = roots[row] - 1
    if ring >= 0 and blocks[ring, KEY] == first_key + row:
        _drop(blocks, state, ring)
    roots[row] = 0
