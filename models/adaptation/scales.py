"""The scale of each session of a network that was trained on many series, kept in its carry.

A session of a series of the training is given the scale of that series before its first observation. Another
one begins with the scale of the whole fleet. After 8, 32 and 128 observations (`Fleet.stages`) it takes the
mean and standard deviation of what it has observed, times how much larger that of a whole training part was
in the fleet, and its observations are replayed from the beginning under the new scale. From the last stage on
the scale stays. So what it has learned is always in the units of one scale, and does not depend on chunks.

settled        mean, std [inputs each] and a count: of observations; the last stage: the scale stays;
               one more: it was given
observed       [last stage, inputs], the first observations, in the data's own units; NaN is a gap
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.arrays import AnyArray, Bools, Floats, Ints
from models.artifact.artifact import Artifact
from models.artifact.fleet import Fleet
from models.carry import CarryLayout

SMALLEST = np.float32(1e-30)  # of a standard deviation that is taken; of a constant column it is not


class SessionScales:
    """Reads and moves the scales in carries. The object itself holds nothing of a session.

    Parameters
    ----------
    artifact : of a fleet
    fleet : its series
    layout : of the carries
    """

    def __init__(self, artifact: Artifact, fleet: Fleet, layout: CarryLayout) -> None:
        self._layout, self._fleet = layout, fleet
        self._rows = {name: row for row, name in enumerate(fleet.names)}
        self._mean = artifact.scaling.mean.astype(np.float32)
        self._std = artifact.scaling.std.astype(np.float32)
        self._stages, self._growth = np.array(fleet.stages), np.array(fleet.growth)
        self._last = fleet.stages[-1]
        self._given = self._last + 1

    @property
    def names(self) -> tuple[str, ...]:
        """The series that the network was trained on."""
        return self._fleet.names

    def initialize(self, carries: Floats) -> None:
        """Begin with the scale of the fleet, and with nothing observed; in place, [batch, carry_size]."""
        count, mean, std, observed = self._parts(carries)
        count[...], mean[...], std[...], observed[...] = 0, self._mean, self._std, 0

    def give(self, carry: Floats, series: str) -> bool:
        """Give a session without observations, [carry_size], the scale of a series.

        Returns whether there is such a series.
        """
        row = self._rows.get(series)
        if row is None:
            return False
        count, mean, std, _ = self._parts(carry[None])
        count[...], mean[...], std[...] = self._given, self._fleet.mean[row], self._fleet.std[row]
        return True

    def reset(self, cleared: Floats, before: Floats) -> None:
        """Keep the scales that were given, in place; all others begin anew. Both [batch, carry_size]."""
        self.initialize(cleared)
        was_given = self._parts(before)[0] == self._given
        part = self._layout.scale_part
        cleared[was_given, part] = before[was_given, part]

    def copy_settled(self, started: Floats, older: SessionScales, before: Floats) -> None:
        """Keep the scales that are settled, for sessions of another network; in place, by session."""
        of_older = older._parts(before)
        settled = of_older[0] >= older._last
        of_new = self._parts(started)
        of_new[0][settled] = self._given
        for mine, theirs in zip(of_new[1:3], of_older[1:3], strict=True):
            mine[settled] = theirs[settled]

    def of_sessions(self, carries: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the inputs of each session, views [batch, inputs]."""
        _, mean, std, _ = self._parts(carries)
        return mean, std

    def unsettled(self, carries: Floats) -> Bools:
        """[batch], whether a session will take another scale."""
        return np.asarray(self._parts(carries)[0] < self._last)

    def until_next(self, carries: Floats) -> Ints:
        """[batch], observations until each session takes another scale; more than any chunk has: never."""
        count = self._parts(carries)[0].astype(np.int64)
        after = np.searchsorted(self._stages, count, side="right")
        never = np.iinfo(np.int64).max
        return np.where(
            count >= self._last, never, self._stages[np.minimum(after, len(self._stages) - 1)] - count
        )

    def record(self, observations: AnyArray, lengths: Ints, carries: Floats) -> None:
        """Keep the chunks of sessions whose scale is not settled, in place; none passes its next stage.

        Parameters
        ----------
        observations : [total, inputs], the data's own units, NaN where nothing was observed
        lengths : [batch]
        carries : [batch, carry_size], after the chunks
        """
        count, _, _, observed = self._parts(carries)
        stops = np.cumsum(lengths)
        for i in np.flatnonzero(count < self._last):
            begin, length = int(count[i]), int(lengths[i])
            observed[i, begin : begin + length] = observations[stops[i] - length : stops[i]]
            count[i] = begin + length

    def settle(self, carries: Floats) -> tuple[Floats, Ints]:
        """Take the scale of what was observed, in place, for sessions [batch] that are at a stage.

        Returns
        -------
        observations : [total, inputs], all that they have observed, one session after the other
        lengths : [batch]
        """
        count, mean, std, observed = self._parts(carries)
        lengths = count.astype(np.int64)
        pieces = []
        for i, length in enumerate(lengths.tolist()):
            seen = observed[i, :length].astype(np.float64)
            growth = self._growth[np.searchsorted(self._stages, length)]
            found, spread = _mean_and_spread(seen)
            known = np.isfinite(found)
            varied = np.isfinite(spread) & (spread * growth > SMALLEST)
            mean[i] = np.where(known, found, mean[i])
            std[i] = np.where(varied, spread * growth, std[i])
            pieces.append(seen.astype(np.float32))
        return np.concatenate(pieces), lengths

    def check(self, carry: Floats) -> None:
        """Refuse the scale of a carry, [carry_size], that no session can have.

        Raises
        ------
        ValueError
        """
        count, mean, std, observed = self._parts(carry[None])
        if count[0] not in range(self._given + 1):
            raise ValueError("the carry's count of observations for its scale is not one of this model")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError("the scale in the carry is not finite, or not above 0")
        if np.isinf(observed).any():
            raise ValueError("the carry has infinity among its first observations")

    def _parts(self, carries: Floats) -> tuple[Any, Any, Any, Any]:
        """Views: count [batch], mean and std [batch, inputs], observed [batch, last stage, inputs]."""
        inputs = self._layout.inputs
        scale = carries[:, self._layout.scale_part]
        observed = carries[:, self._layout.observed_part].reshape(len(carries), self._last, inputs)
        return scale[:, 0], scale[:, 1 : 1 + inputs], scale[:, 1 + inputs :], observed


def _mean_and_spread(seen: Any) -> tuple[Any, Any]:
    """Of [rows, inputs] with gaps, by input; NaN where nothing was observed."""
    there = ~np.isnan(seen)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, seen, 0).sum(axis=0) / there.sum(axis=0)
        squares = np.where(there, np.square(seen - mean), 0).sum(axis=0) / there.sum(axis=0)
    return mean, np.sqrt(squares)
