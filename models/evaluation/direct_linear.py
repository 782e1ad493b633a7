"""Forecasts by linear maps that are learned on the way: a baseline of `models/evaluation/rolling.py`."""

from __future__ import annotations

import numpy as np

from models.arrays import Doubles

FORGETTING, PRECISION = 0.9995, 1.0
LARGEST_VARIANCE = 10.0 / PRECISION  # values that stand still do not make a map more uncertain for ever


class DirectLinear:
    """For each step a linear map of the last values less the last one, learned as the targets are observed.

    Recursive least squares with one covariance for all steps: the gain of an origin is kept until its targets
    are there.

    Parameters
    ----------
    values : [rows, columns], of about unit size, no gaps; values before row 0 are taken as the first
    shared : one map for all columns, or one for each
    """

    def __init__(self, values: Doubles, steps: int, lags: int, *, shared: bool) -> None:
        rows, columns = values.shape
        past = np.concatenate([np.repeat(values[:1], lags, axis=0), values])
        windows = np.lib.stride_tricks.sliding_window_view(past, lags, axis=0)[
            1:, :, :-1
        ]  # [rows, columns, lags - 1]
        self._values, self._steps, self._shared = values, steps, shared
        self._features = np.concatenate([windows - values[:, :, None], np.ones((rows, columns, 1))], axis=2)
        size, maps = lags, 1 if shared else columns
        self._weights = np.zeros((maps, steps, size))
        self._covariance = np.repeat(np.eye(size)[None] / PRECISION, maps, axis=0)
        self._gains = np.zeros((rows, columns, size))

    def __call__(self, row: int) -> Doubles:
        """[steps, columns], the forecasts after this row; to be called for each row in order."""
        columns = range(self._values.shape[1])
        for column in columns:
            which = 0 if self._shared else column
            self._learn(row, column, which)
            self._add(row, column, which)
        largest = np.diagonal(self._covariance, axis1=1, axis2=2).max(axis=1)
        fade = np.where(largest < LARGEST_VARIANCE, FORGETTING, 1.0)[:, None, None]
        self._covariance = (self._covariance + self._covariance.transpose(0, 2, 1)) / (2 * fade)
        maps = [0 if self._shared else column for column in columns]
        changes = np.einsum("csk,ck->sc", self._weights[maps], self._features[row])
        return np.asarray(self._values[row] + changes)

    def _learn(self, row: int, column: int, which: int) -> None:
        """Correct every step whose target this row is."""
        steps = np.arange(min(self._steps, row))
        origins = row - 1 - steps
        weights, features = self._weights[which], self._features[origins, column]
        changes = self._values[row, column] - self._values[origins, column]
        errors = changes - np.einsum("sk,sk->s", weights[: len(steps)], features)
        weights[: len(steps)] += errors[:, None] * self._gains[origins, column]

    def _add(self, row: int, column: int, which: int) -> None:
        """Add the features of this row to the covariance, and keep their gain."""
        features, covariance = self._features[row, column], self._covariance[which]
        product = covariance @ features
        self._gains[row, column] = gain = product / (1 + features @ product)
        covariance -= np.outer(product, gain)
