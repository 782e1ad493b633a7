"""Prediction intervals whose long-run coverage holds whatever the stream does.

For each output and level one number is kept, the half-width q. An error beyond it widens it, one within
narrows it, in the proportion that the level asks for:

    q += rate * scale * ((|error| > q) - (1 - level))

so that over T observations the coverage differs from the level by at most about (largest error) / (rate *
scale * T), with no assumption on the stream: adaptive conformal inference (Gibbs and Candes, NeurIPS 2021)
in its form of quantile tracking (Angelopoulos, Candes and Tibshirani, Conformal PID control for time series
prediction, NeurIPS 2023, section 2.1). `scale` is the output's recent error, as there, so that one rate
suits every unit.

The intervals of a forecast are those of the next step, widened by how the errors of this model grow with the
horizon, which its training has measured (`Learning.growth`).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from models.learning import Learning

Floats = npt.NDArray[np.float32]

RATE = 0.05


def beginning(learning: Learning, outputs: int) -> Floats:
    """[levels, outputs], the half-widths that a session begins with, scaled."""
    if learning.spread:
        return np.array(learning.spread, np.float32)
    normal = [NormalDist().inv_cdf((1 + level) / 2) for level in learning.levels]
    return np.repeat(np.array(normal, np.float32)[:, None], outputs, axis=1)


def square(learning: Learning, widths: Floats) -> Floats:
    """[outputs], the mean squared error of normal errors that have these half-widths: [levels, outputs]."""
    normal = np.array([NormalDist().inv_cdf((1 + level) / 2) for level in learning.levels], np.float32)
    return np.asarray(np.square(widths / normal[:, None]).mean(axis=0))


def track(widths: Floats, sizes: Floats, scale: Floats, levels: Floats) -> npt.NDArray[np.bool_]:
    """Move the half-widths on by one error of each output, in place.

    Parameters
    ----------
    widths : [..., levels, outputs]
    sizes : [..., outputs], the errors' absolute values; NaN where not observed
    scale : [..., outputs], above 0
    levels : [levels]

    Returns
    -------
    missed : [..., levels, outputs], where the error was beyond the width; False where not observed.
    """
    missed = sizes[..., None, :] > np.maximum(widths, 0)
    step = missed - (1 - levels)[:, None]
    step *= np.where(np.isnan(sizes), 0, RATE * scale)[..., None, :]
    widths += step
    return missed


def growth(learning: Learning, steps: int) -> Floats:
    """[steps], how much wider than the first each interval of a forecast is; between the measured horizons
    as the straight line through their logarithms, beyond the last as the square root."""
    horizons = np.arange(1, steps + 1, dtype=np.float64)
    if not learning.growth:
        return np.sqrt(horizons).astype(np.float32)
    known = 2.0 ** np.arange(len(learning.growth))
    ratios = np.exp(np.interp(np.log(horizons), np.log(known), np.log(learning.growth)))
    return np.asarray(ratios * np.sqrt(np.maximum(horizons / known[-1], 1)), np.float32)
