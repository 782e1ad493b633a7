"""What a session carries: one row of float32, and where each part lies in it.

state         state                  the network's own: (h, c) as [2, layers, hidden] of an LSTM
prediction    outputs                the last prediction, scaled: the first value of any forecast
learned       learned                what the session has learned (models/adaptation/learner.py)
clock         3, or 0                the time of the last observation, for a model with time features
tail          tail x inputs          the last observations, newest last, in the data's own units: a newer
                                     network replays them to start warm
"""

from __future__ import annotations

import numpy as np

from models.arrays import Floats, Ints

# A float32 cannot hold seconds since 1970. The numbers are: 1 and the fraction of the second (0: the time is
# unknown), days since 1970, seconds of the day.
CLOCK_SIZE = 3
DAY = 86_400.0


class CarryLayout:
    """Where each part of a carry lies.

    Parameters
    ----------
    state, inputs, outputs : int
        Sizes of the network: numbers of its state, of an observation and of a prediction.
    learned : int
        Numbers of the learner.
    has_clock : bool
        Whether the time of the last observation is kept.
    tail : int
        Observations that are kept.

    Attributes
    ----------
    state, prediction, learned, clock_part, tail_part : slice
        The columns of each part.
    size : int
        Numbers in a carry.
    """

    def __init__(
        self, *, state: int, inputs: int, outputs: int, learned: int, has_clock: bool, tail: int
    ) -> None:
        self.inputs, self.tail = inputs, tail
        sizes = (state, outputs, learned, CLOCK_SIZE * has_clock, tail * inputs)
        stops = np.cumsum(sizes).tolist()
        parts = [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
        self.state, self.prediction, self.learned, self.clock_part, self.tail_part = parts
        self.size = stops[-1]

    def clock(self, carry: Floats) -> float | None:
        """When the session of this carry, [size], observed last: seconds since 1970 UTC, None if unknown."""
        known, days, seconds = carry[self.clock_part].tolist() or (0, 0, 0)
        return days * DAY + seconds + (known - 1) if known else None

    def set_clock(self, carry: Floats, seconds: float) -> None:
        """Write the time of the last observation, seconds since 1970 UTC, into a carry [size], in place."""
        days, rest = divmod(seconds, DAY)
        carry[self.clock_part] = 1 + rest % 1, days, rest // 1

    def tails(self, carries: Floats) -> Floats:
        """The kept observations, a view [batch, tail, inputs], newest last, in the data's own units."""
        return carries[:, self.tail_part].reshape(len(carries), self.tail, self.inputs)

    def append_to_tails(self, observations: Floats, lengths: Ints, before: Floats, after: Floats) -> None:
        """Write the tails that follow `before` when each session has observed its chunk.

        Parameters
        ----------
        observations : [total, inputs], the data's own units; the chunks one after the other
        lengths : [batch], observations in each chunk
        before, after : [batch, size]; only the tails of `after` are written
        """
        old, new = self.tails(before), self.tails(after)
        stop = 0
        for i, length in enumerate(lengths.tolist()):
            stop += length
            count = min(length, self.tail)
            new[i, : self.tail - count] = old[i, count:]
            new[i, self.tail - count :] = observations[stop - count : stop]

    def resize_tail(self, carry: Floats) -> Floats:
        """A carry of another `tail`, resized to this one; the newest observations are kept.

        Parameters
        ----------
        carry : [n]

        Returns
        -------
        [size]

        Raises
        ------
        ValueError : the carry belongs to another network
        """
        untailed = self.tail_part.start
        spare = carry.size - untailed
        if carry.ndim != 1 or spare < 0 or spare % self.inputs:
            raise ValueError(
                f"a carry of {carry.size} numbers does not fit this model, which needs {untailed} and a tail"
            )
        if carry.size == self.size:
            return carry
        resized = np.zeros(self.size, np.float32)
        resized[:untailed] = carry[:untailed]
        kept = min(spare, self.size - untailed)
        if kept:
            resized[-kept:] = carry[-kept:]
        return resized
