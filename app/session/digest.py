"""A 64-bit digest of every chunk of a batch at once, to tell a retry from another chunk at the same position.

Each number's bits are mixed with its index in the chunk by SplitMix64 (Steele, Lea and Flood, 2014), and
the results are added up: two different chunks agree by chance once in 2**64. The digest guards against
mistakes and not against attacks: a client can only deceive its own session.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Digests, Floats, Ints, UInt32s
from models.jit import INT, contiguous, jit, readonly

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)
S27, S30, S31 = np.uint64(27), np.uint64(30), np.uint64(31)


def digests(observations: Floats, lengths: Ints, horizon: int = 0) -> Digests:
    """Digest of each chunk.

    Parameters
    ----------
    observations : [total, inputs], the chunks one after the other
    lengths : [batch], each at least 1
    horizon : steps of the forecast that is requested with the chunk; it is part of the digest

    Returns
    -------
    [batch] of uint64
    """
    found = np.empty(len(lengths), np.uint64)
    write_digests(np.ascontiguousarray(observations).view(np.uint32), lengths, horizon, found)
    return found


@jit(readonly("uint32", 2), readonly("int64"), INT, contiguous("uint64"))
def write_digests(words: UInt32s, lengths: Ints, horizon: int, found: Digests) -> None:
    """Write the digest of each chunk to `found`; `words` are the bits of the observations.

    Every operand is an unsigned 64-bit integer, because Numba would mix it with a signed one as floats.
    """
    row = 0
    for i in range(len(lengths)):
        total, index = np.uint64(0), np.uint64(horizon)
        for _ in range(lengths[i]):
            for word in words[row]:
                index += np.uint64(1)
                mixed = np.uint64(word) + index * GOLDEN
                mixed = (mixed ^ (mixed >> S30)) * FIRST
                mixed = (mixed ^ (mixed >> S27)) * SECOND
                total += mixed ^ (mixed >> S31)
            row += 1
        found[i] = total
