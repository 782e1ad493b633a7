"""The rows of sessions by the bytes of their names: a list of names is looked up in one compiled call.

A request of many sessions names them as bytes. To make a string of each and look it up in a dict takes as
long as a fifth of their step, unless the same list has come before. Here no string is made.

It is a hash table with open addressing and linear probing. The hash of a name is the sum of its bytes, each
times a secret random key of its place, which is strongly universal (Lemire and Kaser, Strongly universal
string hashing is fast, 2014): nobody who does not know the keys can choose names that collide. A name found
is compared byte by byte. Names lie one after another, behind a byte for their size each, and leave a gap
where they are removed until the text is full and compacted.

For a session it takes some 21 bytes and its name.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import numpy as np

from models.arrays import Bools, Bytes, Digests, Ints, UInt32s
from models.jit import INT, contiguous, jit, jit_part, readonly, readonly_contiguous

MAX_NAME = 255  # bytes
MIN_SLOTS, MIN_BYTES = 64, 1024
HIGH = np.uint64(32)  # the higher half of a hash is the strongly universal one


class NameTexts(NamedTuple):
    """The names as they are now. A thread may read them while the table changes.

    What is written later lies behind these names, or in other arrays. Only the name of a row that has got
    another session meanwhile may be that session's.
    """

    text: Bytes
    starts: Ints

    def begin_with(self, prefix: bytes, rows: Ints) -> Bools:
        """[n], whether the name of each of these rows begins so."""
        found = np.zeros(len(rows), np.bool_)
        _begin_with(self.text, self.starts, np.frombuffer(prefix, np.uint8), rows, found)
        return found


class NameTable:
    """Rows by name. A row has one name, or none.

    Parameters
    ----------
    capacity : rows are below it
    """

    def __init__(self, capacity: int) -> None:
        self._count = 0
        self._keys = np.frombuffer(secrets.token_bytes(8 * (MAX_NAME + 1)), np.uint64)
        self._slots = np.zeros(MIN_SLOTS, np.uint32)  # row + 1; 0 where empty
        self._hashes = np.zeros(capacity, np.uint32)  # by row, of its name
        self._starts = np.zeros(capacity, np.int64)  # by row, of its name in the text
        self._text = np.zeros(MIN_BYTES, np.uint8)
        self._end = 0  # of what is written of the text
        self._live = 0  # bytes of it that are in use

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, row: int) -> None:
        """Add a name that is not in the table, for a row that has none.

        Raises
        ------
        ValueError : the name is too long
        """
        data = name.encode()
        size = len(data) + 1
        if size > MAX_NAME + 1:
            raise ValueError(f"a session's name has at most {MAX_NAME} bytes, this one has {len(data)}")
        if self._end + size > len(self._text):
            self._make_room(size)
        if 2 * (self._count + 1) > len(self._slots):
            slots, self._slots = self._slots, np.zeros(2 * len(self._slots), np.uint32)
            _insert_all(slots, self._slots, self._hashes)
        self._text[self._end] = len(data)
        self._text[self._end + 1 : self._end + size] = np.frombuffer(data, np.uint8)
        self._starts[row] = self._end
        self._end += size
        self._live += size
        self._count += 1
        _insert(np.frombuffer(data, np.uint8), row, self._keys, self._slots, self._hashes)

    def remove(self, row: int) -> None:
        """Remove the name of a row that has one."""
        _remove(row, self._slots, self._hashes)
        self._live -= int(self._text[self._starts[row]]) + 1
        self._count -= 1

    def find(self, text: bytes, starts: Ints, ends: Ints, prefix: bytes = b"") -> Ints | None:
        """The rows of the names that lie between `starts` and `ends` of a text; None unless all have one.

        Parameters
        ----------
        starts, ends : [n], within the text
        prefix : of each name; it is not in the text

        Returns
        -------
        [n]
        """
        rows = np.empty(len(starts), np.int64)
        names = np.frombuffer(text, np.uint8), starts, ends, np.frombuffer(prefix, np.uint8)
        found = _find(*names, self._keys, self._slots, self._starts, self._text, rows)
        return rows if found else None

    def _make_room(self, size: int) -> None:
        """Make room in the text for as many bytes as are in use, and `size` more."""
        text = np.zeros(max(MIN_BYTES, 2 * self._live + size), np.uint8)
        if self._end < 2 * self._live:  # as it is: to move a million names takes 20 times as long
            text[: self._end] = self._text[: self._end]
        else:
            self._starts = self._starts.copy()  # `texts` are being read, maybe
            self._end = _move(self._slots, self._starts, self._text, text)
        self._text = text

    @property
    def texts(self) -> NameTexts:
        """The names by row, for a thread."""
        return NameTexts(self._text, self._starts)


@jit_part
def _sum(text: Bytes, start: int, size: int, keys: Digests, first: int) -> np.uint64:
    """The part of a hash that these bytes are; the first of them is at place `first` of the name."""
    total, here, place = np.uint64(0), np.uint64(start), np.uint64(first)
    for i in range(np.uint64(size)):
        total += keys[place + i] * np.uint64(text[here + i])
    return total


@jit_part
def _hash(total: np.uint64, size: int, keys: Digests) -> np.uint32:
    """The hash of a name of this size and sum."""
    return np.uint32((total + keys[MAX_NAME] * np.uint64(size + 1)) >> HIGH)


@jit_part
def _home(hashed: np.uint32, slots: UInt32s) -> int:
    """The slot where a name is looked for first."""
    return int(hashed) & (len(slots) - 1)


@jit_part
def _are_equal(first: Bytes, i: int, second: Bytes, j: int, size: int) -> bool:
    here, there, different = np.uint64(i), np.uint64(j), np.uint8(0)
    for k in range(np.uint64(size)):
        different |= first[here + k] ^ second[there + k]
    return bool(different == 0)


@jit_part
def _put(row: int, slots: UInt32s, hashes: UInt32s) -> None:
    slot = _home(hashes[row], slots)
    while slots[slot] != 0:
        slot = (slot + 1) & (len(slots) - 1)
    slots[slot] = row + 1


@jit(readonly_contiguous("uint8"), INT, readonly("uint64"), contiguous("uint32"), contiguous("uint32"))
def _insert(name: Bytes, row: int, keys: Digests, slots: UInt32s, hashes: UInt32s) -> None:
    hashes[row] = _hash(_sum(name, 0, len(name), keys, 0), len(name), keys)
    _put(row, slots, hashes)


@jit(contiguous("uint32"), contiguous("uint32"), contiguous("uint32"))
def _insert_all(old: UInt32s, slots: UInt32s, hashes: UInt32s) -> None:
    for entry in old:
        if entry != 0:
            _put(int(entry) - 1, slots, hashes)


@jit(INT, contiguous("uint32"), contiguous("uint32"))
def _remove(row: int, slots: UInt32s, hashes: UInt32s) -> None:
    """Empty the row's slot, and move up what was put behind it because the slot was taken."""
    mask = len(slots) - 1
    gap = _home(hashes[row], slots)
    while slots[gap] != row + 1:
        gap = (gap + 1) & mask
    slot = gap
    while True:
        slots[gap] = 0
        while True:
            slot = (slot + 1) & mask
            if slots[slot] == 0:
                return
            home = _home(hashes[int(slots[slot]) - 1], slots)
            if ((slot - home) & mask) >= ((slot - gap) & mask):  # its search passes the gap
                break
        slots[gap] = slots[slot]
        gap = slot


@jit(contiguous("uint32"), contiguous("int64"), contiguous("uint8"), contiguous("uint8"))
def _move(slots: UInt32s, starts: Ints, old: Bytes, new: Bytes) -> int:
    """Copy every name to another text, one after another. Returns the end of the last."""
    end = 0
    for entry in slots:
        if entry != 0:
            row = int(entry) - 1
            start, size = starts[row], int(old[starts[row]]) + 1
            for i in range(size):
                new[end + i] = old[start + i]
            starts[row] = end
            end += size
    return end


@jit(
    readonly_contiguous("uint8"), readonly("int64"), readonly("int64"), readonly_contiguous("uint8"),
    readonly("uint64"), contiguous("uint32"), contiguous("int64"), contiguous("uint8"), contiguous("int64"),
)  # fmt: skip
def _find(
    names: Bytes,
    name_starts: Ints,
    name_ends: Ints,
    prefix: Bytes,
    keys: Digests,
    slots: UInt32s,
    starts: Ints,
    text: Bytes,
    rows: Ints,
) -> bool:
    """Write the rows of these names; False at the first name that has none."""
    before = len(prefix)
    prefix_sum = _sum(prefix, 0, min(before, MAX_NAME), keys, 0)
    for k in range(len(rows)):
        first, size = int(name_starts[k]), int(name_ends[k] - name_starts[k])
        if before + size > MAX_NAME:
            return False
        total = prefix_sum + _sum(names, first, size, keys, before)
        slot = _home(_hash(total, before + size, keys), slots)
        while True:
            if slots[slot] == 0:
                return False
            row = int(slots[slot]) - 1
            start = int(starts[row])
            if (
                int(text[start]) == before + size
                and _are_equal(prefix, 0, text, start + 1, before)
                and _are_equal(names, first, text, start + 1 + before, size)
            ):
                break
            slot = (slot + 1) & (len(slots) - 1)
        rows[k] = row
    return True


@jit(
    readonly_contiguous("uint8"), readonly("int64"), readonly_contiguous("uint8"), readonly("int64"),
    contiguous("bool"), release_gil=True,
)  # fmt: skip
def _begin_with(text: Bytes, starts: Ints, prefix: Bytes, rows: Ints, found: Bools) -> None:
    """Mark the rows whose names begin with the prefix. A name that lies outside the text has another."""
    size = len(prefix)
    for i in range(len(rows)):
        start = starts[rows[i]]
        if start + 1 + size <= len(text) and text[start] >= size:
            found[i] = _are_equal(prefix, 0, text, start + 1, size)
