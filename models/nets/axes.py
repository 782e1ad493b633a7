"""Where the batch and the time are among the axes of a graph's tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.arrays import AnyArray


class Axes:
    """The order of a tensor's axes.

    Parameters
    ----------
    rank : number of axes
    places : which axis is the batch, and which is the time where there is one
    """

    def __init__(self, rank: int, places: Sequence[int]) -> None:
        self._front = (*places, *(axis for axis in range(rank) if axis not in places))
        self._back = np.argsort(self._front).tolist()
        self._are_in_front = self._front == tuple(range(rank))

    def batch_first(self, tensor: AnyArray) -> AnyArray:
        """[batch, (steps,) *shape] of a tensor of the graph, a view.

        Raises
        ------
        ValueError : it has another number of axes
        """
        if tensor.ndim != len(self._front):
            raise ValueError(f"a tensor of the graph has {tensor.ndim} axes, expected {len(self._front)}")
        return tensor if self._are_in_front else tensor.transpose(self._front)

    def as_tensor(self, values: AnyArray) -> AnyArray:
        """The inverse, in one piece: a copy where the order of the numbers in memory changes."""
        return np.ascontiguousarray(values if self._are_in_front else values.transpose(self._back))
