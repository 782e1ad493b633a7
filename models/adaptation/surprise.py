"""How surprising an observation was: the calibrated tail probability of its error in the session's history.

The errors of all outputs, each divided by its own recent size, give one number z, the root of their mean
square. z is smoothed over about ten observations (z^2 <- 0.9 z^2 + 0.1 new): most faults last, and a single
error of ten times the usual size still gives three times the usual z.

A histogram over log z, whose past fades, says how often z was as large: 1 minus that share is the surprise.
Beyond the largest z so far, one imaginary observation with a heavy tail ((1 + z^2 / 3)^(-3/2), about that of
Student's t with 3 degrees of freedom) keeps it below 1 and rising with z. This is the (smoothed)
conformal p-value of Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005), chapter 2,
over a fading window.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Floats, Ints
from models.jit import contiguous, jit, readonly

BINS = 48
PER_OCTAVE = 4
LOWEST = -6.0  # log2 of the first bin's lower edge
FADING = np.float32(1 - 1 / 5000)
SMOOTHING = np.float32(0.9)
CAP = np.float32(4)  # times its scale, at most, an error adds to that scale: a burst must not hide itself
HUGE = np.float32(1e9)  # its square is still finite in float32
BELOW_ONE = np.float32(1 - 2**-24)


def smooth(surprise: Floats, errors: Floats, scale: Floats) -> Floats:
    """Add the errors of one observation of each session to the smoothed mean square, in place.

    Parameters
    ----------
    surprise : [...], the smoothed mean square so far
    errors : [..., outputs]; NaN where not observed
    scale : [..., outputs], above 0

    Returns
    -------
    [...], the root of the new `surprise`; NaN where nothing was observed, which changes nothing
    """
    seen = ~np.isnan(errors)
    observed = seen.any(-1)
    ratios = np.minimum(np.abs(np.where(seen, errors, 0)) / scale, HUGE)
    mean = (ratios * ratios).sum(-1) / np.maximum(seen.sum(-1), 1)
    surprise += np.where(observed, (1 - SMOOTHING) * (mean - surprise), np.float32(0))
    return np.where(observed, np.sqrt(surprise), np.float32(np.nan)).astype(np.float32)


def score(histogram: Floats, size: Floats) -> Floats:
    """Score each session's error, then add it to the histogram, in place.

    Parameters
    ----------
    histogram : [..., BINS], fading counts
    size : [...], of `smooth`; where NaN nothing is scored or added

    Returns
    -------
    [...] in [0, 1): 1 minus the share of errors at least as large; NaN where nothing was observed
    """
    seen = ~np.isnan(size)
    size = np.where(seen, np.minimum(size, HUGE), 0)
    place = (np.log2(np.maximum(size, np.float32(1e-9))) - LOWEST) * PER_OCTAVE
    inside = np.clip(place, 0, BINS - 1e-3)
    bin_ = inside.astype(np.int64)[..., None]
    upto = histogram.cumsum(-1)
    here = np.take_along_axis(histogram, bin_, -1)
    total = upto[..., -1]
    larger = total - np.take_along_axis(upto, bin_, -1)[..., 0]
    larger += here[..., 0] * (
        1 - (inside - bin_[..., 0])
    )  # the counts of a bin are taken to be spread evenly over it
    larger[place >= BINS] = 0
    score = 1 - (np.maximum(larger, 0) + (1 + size * size / 3) ** -1.5) / (total + 1)
    histogram *= np.where(seen, FADING, np.float32(1))[..., None]
    np.put_along_axis(histogram, bin_, np.take_along_axis(histogram, bin_, -1) + seen[..., None], -1)
    return np.where(seen, np.clip(score, 0, BELOW_ONE), np.nan).astype(np.float32)


@jit(
    readonly("float32", 2), readonly("float32"), readonly("int64"), contiguous("float32"), release_gil=True
)  # fmt: skip
def last_scores(histogram: Floats, surprise: Floats, rows: Ints, scores: Floats) -> None:
    """Write the surprise of each session's last observation: what `score` returned, undone and made again.

    Parameters
    ----------
    histogram, surprise : [sessions, BINS] and [sessions], after that observation
    rows : [n], the sessions to look at
    scores : [n], written to; NaN where nothing was scored yet
    """
    for i in range(len(rows)):
        row = rows[i]
        size = min(np.sqrt(surprise[row]), HUGE)
        place = (np.log2(max(size, np.float32(1e-9))) - np.float32(LOWEST)) * np.float32(PER_OCTAVE)
        inside = min(max(place, np.float32(0)), np.float32(BINS - 1e-3))
        bin_ = int(inside)
        total, larger = 0.0, 0.0
        for k in range(BINS):
            total += histogram[row, k]
            if k > bin_:
                larger += histogram[row, k]
        if total <= 0:
            scores[i] = np.nan
            continue
        larger += max(histogram[row, bin_] - 1, 0.0) * (1 - (inside - bin_))
        if place >= BINS:
            larger = 0.0
        score = 1 - (larger / FADING + (1 + size * size / 3) ** -1.5) / ((total - 1) / FADING + 1)
        scores[i] = min(max(score, 0.0), BELOW_ONE)
