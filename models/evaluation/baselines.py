"""Baselines: predictions that need no training, of each row from the rows before it.

persistence      the value of the row before
seasonal naive   the value one season before, if a season is found
online AR        a linear map of the last values, learned on the way
"""

from __future__ import annotations

import numpy as np

from models.adaptation import readout
from models.arrays import Doubles

LAGS = 25  # a day of hourly readings, and the hour before it


def online_autoregression(
    values: Doubles, rows: range, lags: int = LAGS, forgetting: float = 0.999, prior: float = 1.0
) -> Doubles:
    """Predict each column from its own last values and a constant, fitted by recursive least squares.

    The change from the row before is fitted, by the same recursion that corrects a session's readout
    (models/adaptation/readout.py), from row 1 on.

    Parameters
    ----------
    values
        [rows, columns], of about unit size, no gaps; values before row 0 are taken as 0.

    Returns
    -------
    [rows, columns]
    """
    columns = values.shape[1]
    single = values.astype(np.float32)
    past = np.concatenate([np.zeros((lags, columns), np.float32), single])
    windows = np.lib.stride_tricks.sliding_window_view(past, lags, axis=0)[1:]  # [rows, columns, lags]
    features = np.concatenate([windows, np.ones((*windows.shape[:2], 1), np.float32)], axis=2)
    weights = np.empty((columns, 1, lags + 1), np.float32)
    covariance = np.empty((columns, lags + 1, lags + 1), np.float32)
    keep, pull = np.full(columns, forgetting, np.float32), np.full(columns, prior, np.float32)
    readout.initialize(weights, covariance, pull)
    observed = np.ones(columns, bool)
    predictions = np.empty((rows.stop, columns), np.float32)
    for row in range(1, rows.stop):
        lagged = features[row - 1]
        predictions[row] = single[row - 1] + readout.corrections(weights, lagged)[:, 0]
        errors = (single[row] - predictions[row])[:, None]
        renewed_feature = np.full(columns, row % (lags + 1))
        readouts = readout.Readouts(weights, covariance, keep, pull, renewed_feature)
        readout.update(readouts, lagged, errors, observed)
    return predictions[rows.start :].astype(np.float64)


def find_season(past: Doubles) -> int | None:
    """The season of the first column: the lag of the first high autocorrelation after a negative one.

    Parameters
    ----------
    past
        [rows, columns]; at least three seasons must fit in it.

    Returns
    -------
    int | None
        Rows; None if no lag has a negative correlation and a later one reaches 0.3.
    """
    rows, values = np.arange(len(past)), past[:, 0]
    if len(values) < 7:
        return None
    # Changes first: the levels of a slow drift correlate at every lag. With much noise only the levels work.
    levels = values - np.polyval(np.polyfit(rows, values, 1), rows)
    return _first_peak(np.diff(values)) or _first_peak(levels)


def _first_peak(values: Doubles) -> int | None:
    lags = len(values) // 3
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        return None
    spectrum = (
        np.abs(np.fft.rfft(values, 2 * len(values))) ** 2
    )  # zero-padded, so that lags do not wrap around
    correlation = np.fft.irfft(spectrum)[:lags] / np.arange(len(values), len(values) - lags, -1)
    below = np.flatnonzero(correlation < 0)
    best = correlation[below[0] :].max() if len(below) else 0.0
    if best < 0.3 * correlation[0]:
        return None
    # The first peak near the highest, because two seasons correlate about as well as one.
    peak = below[0] + int(np.argmax(correlation[below[0] :] >= 0.9 * best))
    while peak + 1 < lags and correlation[peak + 1] > correlation[peak]:
        peak += 1
    return int(peak)
