"""Numbers between the data's own units and the network's."""

from __future__ import annotations

import numpy as np

from models.arrays import Doubles, Floats, Ints, Numbers
from models.data.scaling import Scaling


class Units:
    """Between the data's own units and the network's.

    Parameters
    ----------
    mean, std : [columns] of all sessions, or [batch, columns] of each
    """

    def __init__(self, mean: Floats, std: Floats) -> None:
        self.mean, self.std = mean, std

    @staticmethod
    def of(scaling: Scaling | None) -> Units:
        """The units of an artifact's columns."""
        return _SameUnits() if scaling is None else Units(_single(scaling.mean), _single(scaling.std))

    def repeated(self, lengths: Ints) -> Units:
        """Of each observation, [total, columns], where this is of each session, [batch, columns]."""
        return Units(np.repeat(self.mean, lengths, axis=0), np.repeat(self.std, lengths, axis=0))

    def by_row(self, axes: int = 1) -> Units:
        """The same for numbers [batch, steps, columns], or with more axes after the sessions."""
        if self.mean.ndim == 1:
            return self
        shape = (len(self.mean), *(1,) * axes, self.mean.shape[1])
        return Units(self.mean.reshape(shape), self.std.reshape(shape))

    def pick(self, columns: list[int]) -> Units:
        """Of these columns."""
        return Units(self.mean[..., columns], self.std[..., columns])

    def scaled(self, numbers: Numbers) -> Numbers:
        """Numbers, [..., columns], in the network's units."""
        return np.asarray((numbers - self.mean) / self.std, np.float32)

    def unscaled(self, numbers: Numbers) -> Numbers:
        """The inverse of `scaled`."""
        return numbers * self.std + self.mean


class _SameUnits(Units):
    """The network takes the data's own units."""

    def __init__(self) -> None:
        super().__init__(np.zeros(1, np.float32), np.ones(1, np.float32))

    def scaled(self, numbers: Numbers) -> Numbers:
        """The same array."""
        return numbers

    unscaled = scaled


def _single(values: Doubles) -> Floats:
    return np.asarray(values, np.float32)
