"""Prediction intervals whose long-run coverage holds for every stream.

For each output and level there is one number q: the half-width of the interval, divided by the recent size of
the errors of that output. An error outside the interval widens it, an error inside narrows it, in the
proportion that the level demands:

    q += rate * ((|error| > q * scale) - (1 - level))

Over T observations the coverage differs from the level by (q_T - q_0) / (rate * T). q is bounded, because an
interval wider than the largest |error| / scale misses nothing. So the coverage converges to the level without
any assumption about the stream. This is adaptive conformal inference (Gibbs and Candes, NeurIPS 2021) as
quantile tracking (Angelopoulos, Candes and Tibshirani, Conformal PID control for time series prediction,
NeurIPS 2023, section 2.1), applied to errors divided by their scale.

The interval of a forecast is that of the next step times a factor that grows with the horizon. Training
measures this growth of the errors (`Learning.growth`).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from models.arrays import Bools, Floats
from models.artifact.learning import Learning

RATE = 0.05


def initial_state(learning: Learning, outputs: int) -> tuple[Floats, Floats]:
    """The intervals of a session that has observed nothing.

    Returns
    -------
    ratios : [levels, outputs]; times the scale they are `learning.spread`. Without a spread, they are those
    of
        normal errors with the standard deviation of the data
    square : [outputs], the squared scale of the errors
    """
    normal = np.array([[NormalDist().inv_cdf((1 + level) / 2)] for level in learning.levels], np.float32)
    if not learning.spread:
        return np.repeat(normal, outputs, axis=1), np.ones(outputs, np.float32)
    widths = np.array(learning.spread, np.float32)
    square = np.square(widths / normal).mean(axis=0)
    return widths / np.sqrt(square), square


def track(ratios: Floats, sizes: Floats, scale: Floats, levels: Floats) -> Bools:
    """Move the ratios on by one error of each output, in place.

    Parameters
    ----------
    ratios : [..., levels, outputs], half-widths over the scale
    sizes : [..., outputs], the errors' absolute values; NaN where not observed
    scale : [..., outputs], above 0
    levels : [levels]

    Returns
    -------
    missed : [..., levels, outputs], where the error was outside the interval; False where not observed
    """
    missed = sizes[..., None, :] > in_order(ratios) * scale[..., None, :]
    allowed = (1 - levels)[:, None]
    ratios += RATE * (missed - allowed) * ~np.isnan(sizes)[..., None, :]
    # Only errors of exactly 0 reach this: they are never outside, and would narrow an interval for ever.
    np.maximum(ratios, -RATE * allowed, out=ratios)
    return np.asarray(missed)


def in_order(ratios: Floats) -> Floats:
    """Ratios as intervals use them, [..., levels, outputs]: none below 0, or below that of a lower level.

    Each level is tracked by itself, so after a change of the stream one may be ahead of a higher one.
    """
    return np.asarray(np.maximum.accumulate(np.maximum(ratios, 0), axis=-2))


def growth(learning: Learning, steps: int) -> Floats:
    """How much wider than the first each interval of a forecast is: [steps].

    Between the measured horizons the logarithm is interpolated linearly in the logarithm of the horizon;
    beyond the last, the growth is the square root, that of a random walk.
    """
    horizons = np.arange(1, steps + 1, dtype=np.float64)
    if not learning.growth:
        return np.sqrt(horizons).astype(np.float32)
    known = 2.0 ** np.arange(len(learning.growth))
    ratios = np.exp(np.interp(np.log(horizons), np.log(known), np.log(learning.growth)))
    return np.asarray(ratios * np.sqrt(np.maximum(horizons / known[-1], 1)), np.float32)
