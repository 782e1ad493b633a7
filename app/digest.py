"""A 64-bit digest of every chunk of a wave at once, to tell a retry from another chunk at the same place.

Each number's bits are mixed with its place in the chunk by SplitMix64 (Steele, Lea and Flood, 2014) and
the results added up: two chunks that differ agree by chance once in 2**64. It guards against mistakes,
not against a client that wants to deceive itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)
S27, S30, S31 = np.uint64(27), np.uint64(30), np.uint64(31)
FEW = 8  # numbers of a chunk alone; so few are mixed sooner one by one: 2 us in place of 10 for one of them
BITS = (1 << 64) - 1


def digests(
    observations: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], horizon: int = 0
) -> npt.NDArray[np.uint64]:
    """Digest of each chunk.

    Parameters
    ----------
    observations : [total, inputs], the chunks laid one after the other
    lengths : [batch], each at least 1
    horizon : the steps of forecast asked for beside it; another horizon is another request

    Returns
    -------
    [batch] of uint64
    """
    total, width = observations.shape
    words = np.ascontiguousarray(observations).view(np.uint32)
    if len(lengths) == 1 and words.size <= FEW:
        return np.array([_of_few(words.ravel().tolist(), horizon)], np.uint64)
    if total == len(lengths):  # one observation each, as in most waves: the columns are the places
        mixed = _mixed(words, np.arange(width, dtype=np.uint64), horizon)
        return mixed[:, 0] if width == 1 else mixed.sum(axis=1)
    numbers = lengths * width
    starts = numbers.cumsum() - numbers
    place = np.arange(words.size, dtype=np.uint64)
    if len(lengths) > 1:
        place -= np.repeat(starts, numbers).astype(np.uint64)
    return np.add.reduceat(_mixed(words.ravel(), place, horizon), starts)


def _mixed(
    words: npt.NDArray[np.uint32], place: npt.NDArray[np.uint64], horizon: int
) -> npt.NDArray[np.uint64]:
    mixed = words + (place + np.uint64(1 + horizon)) * GOLDEN
    mixed ^= mixed >> S30
    mixed *= FIRST
    mixed ^= mixed >> S27
    mixed *= SECOND
    mixed ^= mixed >> S31
    return mixed


def _of_few(words: list[int], horizon: int) -> int:
    """`_mixed`, number by number, and added up."""
    total = 0
    for place, word in enumerate(words, 1 + horizon):
        mixed = (word + place * int(GOLDEN)) & BITS
        mixed = ((mixed ^ mixed >> 30) * int(FIRST)) & BITS
        mixed = ((mixed ^ mixed >> 27) * int(SECOND)) & BITS
        total += mixed ^ mixed >> 31
    return total & BITS
