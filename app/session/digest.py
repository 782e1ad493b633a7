"""A 64-bit digest of every chunk of a wave at once, to tell a retry from another chunk at the same place.

Each number's bits are mixed with its place in the chunk by SplitMix64 (Steele, Lea and Flood, 2014) and
the results added up: two chunks that differ agree by chance once in 2**64. It guards against mistakes,
not against a client that wants to deceive itself.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Digests, Floats, Ints, Words
from models.jit import INT, contiguous, jit, readonly

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)
S27, S30, S31 = np.uint64(27), np.uint64(30), np.uint64(31)


def digests(observations: Floats, lengths: Ints, horizon: int = 0) -> Digests:
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
    told = np.empty(len(lengths), np.uint64)
    _digest(np.ascontiguousarray(observations).view(np.uint32), lengths, horizon, told)
    return told


@jit(readonly("uint32", 2), readonly("int64"), INT, contiguous("uint64"))
def _digest(words: Words, lengths: Ints, horizon: int, told: Digests) -> None:
    """Every operand is of 64 bits without a sign: with one that has a sign, Numba would go on in floats."""
    row = 0
    for i in range(len(lengths)):
        total, place = np.uint64(0), np.uint64(horizon)
        for _ in range(lengths[i]):
            for word in words[row]:
                place += np.uint64(1)
                mixed = np.uint64(word) + place * GOLDEN
                mixed = (mixed ^ (mixed >> S30)) * FIRST
                mixed = (mixed ^ (mixed >> S27)) * SECOND
                total += mixed ^ (mixed >> S31)
            row += 1
        told[i] = total
