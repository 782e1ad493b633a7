"""Prediction intervals whose long-run coverage holds whatever the stream does.

For each output and level one number q is kept: the half-width of the interval over the recent size of that
output's errors. An error beyond the interval widens it, one within narrows it, in the proportion that the
level asks for:

    q += rate * ((|error| > q * scale) - (1 - level))

What is added up is the coverage itself: over T observations it differs from the level by (q_T - q_0) / (rate
* T), and q cannot run away, because beyond the largest |error| / scale nothing is missed. No assumption on
the stream is made: adaptive conformal inference (Gibbs and Candes, NeurIPS 2021) in its form of quantile
tracking (Angelopoulos, Candes and Tibshirani, Conformal PID control for time series prediction, NeurIPS 2023,
section 2.1), on errors over their scale.

The intervals of a forecast are those of the next step, widened by how the errors of this model grow with the
horizon, which its training has measured (`Learning.growth`).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from models.arrays import Bools, Floats
from models.artifact.learning import Learning

RATE = 0.05


def initial_state(learning: Learning, outputs: int) -> tuple[Floats, Floats]:
    """What a session begins with: ratios [levels, outputs], and the squared scale of its errors [outputs].

    Times the scale, the ratios are `learning.spread`; without one, those of normal errors wide as the data.
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
    missed : [..., levels, outputs], where the error was beyond the interval; False where not observed.
    """
    missed = sizes[..., None, :] > np.maximum(ratios, 0) * scale[..., None, :]
    ratios += RATE * (missed - (1 - levels)[:, None]) * ~np.isnan(sizes)[..., None, :]
    return np.asarray(missed)


def growth(learning: Learning, steps: int) -> Floats:
    """[steps], how much wider than the first each interval of a forecast is; between the measured horizons
    as the straight line through their logarithms, beyond the last as the square root."""
    horizons = np.arange(1, steps + 1, dtype=np.float64)
    if not learning.growth:
        return np.sqrt(horizons).astype(np.float32)
    known = 2.0 ** np.arange(len(learning.growth))
    ratios = np.exp(np.interp(np.log(horizons), np.log(known), np.log(learning.growth)))
    return np.asarray(ratios * np.sqrt(np.maximum(horizons / known[-1], 1)), np.float32)
