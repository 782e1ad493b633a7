"""How the chunks of a batch lie: one after the other, each as long as it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.arrays import AnyArray, Ints


def longest_chunk(lengths: Ints, observations: AnyArray) -> int:
    """Observations of the longest chunk; `lengths` is not read where each chunk has one observation."""
    return 1 if len(observations) == len(lengths) else int(lengths.max())


def time_major(lengths: Ints, order: Ints, longest: int) -> Iterator[Ints]:
    """For each step, the row numbers of the observations of all chunks that are long enough.

    Parameters
    ----------
    lengths : [batch], of chunks that lie one after the other
    order : [batch], which sorts the chunks, the longest first
    longest : length of the longest chunk
    """
    starts = (np.cumsum(lengths) - lengths)[order]
    descending = -lengths[order]
    for step in range(longest):
        yield starts[: np.searchsorted(descending, -step, side="left")] + step
