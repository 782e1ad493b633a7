"""What a session carries: one row of 4-byte words, and where each part lies in it.

state         state                  the network's own: (h, c) as [2, layers, hidden] of an LSTM
prediction    outputs                the last prediction, scaled: the first value of any forecast
learned       learned                what the session has learned (models/adaptation/learner.py)
clock         3, or 0                the time of the last observation, for a model with time features
scale         1 + 2 x inputs, or 0   the session's own scale, for a network of many series
observed      n x inputs, or 0       its first observations, until the scale is settled; NaN is a gap
                                     (models/adaptation/scales.py)
tail          tail x inputs          the last observations, newest last, in the data's own units: a newer
                                     network replays them to start warm

A row is an array of float32, whatever its words hold. Those of an LSTM are all float32. A graph may keep
other types in its state (models/nets/rows.py), and observations and predictions of float64 take two words a
number. Copies keep the bits of every word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from models.arrays import Floats, Ints, Numbers

if TYPE_CHECKING:
    from models.net import Net

# A float32 cannot hold seconds since 1970. The numbers are: 1 and the fraction of the second (0: the time is
# unknown), days since 1970, seconds of the day.
CLOCK_SIZE = 3
DAY = 86_400.0


class CarryLayout:
    """Where each part of a carry lies.

    Parameters
    ----------
    net : Net
        Says how large its state is, and what observations and predictions are.
    learned : int
        Numbers of the learner.
    has_clock : bool
        Whether the time of the last observation is kept.
    tail : int
        Observations that are kept.
    scaled_by : int
        First observations by which a session finds its own scale; 0: all sessions have one scale.

    Attributes
    ----------
    state, prediction, learned, clock_part, scale_part, observed_part, tail_part : slice
        The columns of each part.
    floats : sequence of slice
        The columns that are float32, in which no NaN or infinity may be.
    float_bounds : [n, 2]
        The first column of each of these slices, and the column behind its last.
    size : int
        Words in a carry.
    """

    def __init__(self, net: Net, *, learned: int, has_clock: bool, tail: int, scaled_by: int = 0) -> None:
        self.inputs, self.tail = net.input_size, tail
        self._input_type, self._output_type = net.input_type, net.output_type
        self._row_words = net.input_size * _words(net.input_type)  # of an observation
        outputs = net.output_size * _words(net.output_type)
        of_scale = (1 + 2 * self.inputs) * (scaled_by > 0), scaled_by * self.inputs
        sizes = (
            *(net.state_size, outputs, learned, CLOCK_SIZE * has_clock),
            *(*of_scale, tail * self._row_words),
        )
        stops = np.cumsum(sizes).tolist()
        parts = [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
        self.state, self.prediction, self.learned, self.clock_part = parts[:4]
        self.scale_part, self.observed_part, self.tail_part = parts[4:]
        self.size: int = stops[-1]
        self.floats = _joined(
            (
                *net.floats,
                *[self.prediction] * (_words(net.output_type) == 1),
                self.learned,
                self.clock_part,
                self.scale_part,
                *[self.tail_part] * (_words(net.input_type) == 1),
            )
        )
        bounds = [(part.start, part.stop) for part in self.floats]
        self.float_bounds: Ints = np.array(bounds, np.int64).reshape(-1, 2)

    def predictions(self, carries: Floats) -> Numbers:
        """The last prediction of each carry, a view [batch, outputs], scaled."""
        return carries[:, self.prediction].view(self._output_type)

    def clock(self, carry: Floats) -> float | None:
        """When the session of this carry, [size], observed last: seconds since 1970 UTC, None if unknown."""
        known, days, seconds = carry[self.clock_part].tolist() or (0, 0, 0)
        return days * DAY + seconds + (known - 1) if known else None

    def set_clock(self, carry: Floats, seconds: float) -> None:
        """Write the time of the last observation, seconds since 1970 UTC, into a carry [size], in place."""
        days, rest = divmod(seconds, DAY)
        carry[self.clock_part] = 1 + rest % 1, days, rest // 1

    def tails(self, carries: Floats) -> Numbers:
        """The kept observations, a view [batch, tail, inputs], newest last, in the data's own units."""
        numbers = carries[:, self.tail_part].view(self._input_type)
        return numbers.reshape(len(carries), self.tail, self.inputs)

    def append_to_tails(self, observations: Numbers, lengths: Ints, before: Floats, after: Floats) -> None:
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
        if carry.ndim != 1 or spare < 0 or spare % self._row_words:
            raise ValueError(
                f"a carry of {carry.size} words does not fit this model, which needs {untailed} and a tail"
            )
        if carry.size == self.size:
            return carry
        resized = np.zeros(self.size, np.float32)
        resized[:untailed] = carry[:untailed]
        kept = min(spare, self.size - untailed)
        if kept:
            resized[-kept:] = carry[-kept:]
        return resized


def _words(kind: np.dtype[Any]) -> int:
    return kind.itemsize // np.dtype(np.float32).itemsize


def _joined(parts: Iterable[slice]) -> Sequence[slice]:
    """The same columns in as few slices as possible."""
    joined: list[slice] = []
    for part in parts:
        if joined and joined[-1].stop == part.start:
            joined[-1] = slice(joined[-1].start, part.stop)
        elif part.start < part.stop:
            joined.append(part)
    return joined
