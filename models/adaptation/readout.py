"""A session's own correction of the readout, learned from every error by recursive least squares.

The prediction of output o is the network's own plus w_o . f, where f is a vector of features and w_o
starts at zero. At each observation the error e of the prediction that had been made moves w:

    g = P f        s = forgetting + f . g
    w_o += e_o g / s                            P <- (P - g g' / s) / forgetting

which minimises the sum over the past of forgetting^age (y - w . f)^2 (Haykin, Adaptive Filter Theory, 4th
ed., chapter 9). Alone, this forgets its prior as well, and where a direction of f is not excited, P grows
without bound: wind-up. So the prior is kept up: at each observation one coordinate, in turn, is observed to
be zero, with the weight that the prior loses on all of them in the meantime (Gay, Dynamically regularized
fast RLS with application to echo cancellation, ICASSP 1996):

    a = k (1 - forgetting) prior    g = P u_i    s = 1 + a g_i
    w_o -= a w_oi g / s             P <- P - a g g' / s

P stays near 1 / prior at most, and a correction that nothing speaks for any more fades.

Numbers. Only g g' is ever subtracted, whose two triangles are the same products: P stays symmetric bit by
bit. Kept symmetric, and with the prior kept up, rounding errors decay as old observations do (Ljung and
Ljung, Error propagation properties of recursive least-squares adaptation algorithms, Automatica 1985).
Should P lose its sign all the same, the session's P begins anew and its w stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.arrays import Bools, Floats, Ints

BLOCK_BYTES = 2**20


def initialize(weights: Floats, covariance: Floats, prior: Floats) -> None:
    """A readout that corrects nothing yet, in place.

    Parameters
    ----------
    weights : [..., outputs, k]; covariance : [..., k, k]; prior : [...]
    """
    weights[...] = 0.0
    covariance[...] = 0.0
    place = np.arange(covariance.shape[-1])
    covariance[..., place, place] = 1.0 / prior[..., None]


def corrections(weights: Floats, features: Floats) -> Floats:
    """What is added to the network's predictions: [..., outputs] from [..., k]."""
    return np.asarray(np.matmul(weights, features[..., None])[..., 0])


def update(
    weights: Floats,
    covariance: Floats,
    features: Floats,
    errors: Floats,
    observed: Bools,
    forgetting: Floats,
    prior: Floats,
    coordinate: Ints,
) -> None:
    """Learn from the errors of one prediction of each session, in place.

    Parameters
    ----------
    weights : [..., outputs, k]
    covariance : [..., k, k], symmetric
    features : [..., k], which the prediction was made of
    errors : [..., outputs], observed minus predicted; 0 where not observed
    heard : [...], whether anything was observed; where not, nothing is learned nor forgotten
    forgetting, prior : [...]
    turn : [...], the coordinate whose prior is kept up now, below k
    """
    columns: tuple[Any, ...] = (
        weights,
        covariance,
        features,
        errors,
        observed,
        forgetting,
        prior,
        coordinate,
    )
    step = max(1, BLOCK_BYTES // max(1, covariance[:1].nbytes))
    for start in range(0, len(weights), step):
        _update(*(column[start : start + step] for column in columns))


def _update(
    weights: Floats,
    covariance: Floats,
    features: Floats,
    errors: Floats,
    observed: Bools,
    forgetting: Floats,
    prior: Floats,
    coordinate: Ints,
) -> None:
    """A block of sessions, small enough for its covariances to stay in the cache from pass to pass."""
    gain = np.matmul(covariance, features[..., None])[..., 0]  # [..., k]
    scale = (features * gain).sum(-1)  # above 0, or the covariance is none any more
    lost = observed & ~(scale >= 0)
    if lost.any():
        initialize(np.empty_like(weights[lost]), fresh := np.empty_like(covariance[lost]), prior[lost])
        covariance[lost] = fresh
        observed = observed & ~lost
    keep = np.where(observed, forgetting, np.float32(1))
    scale += keep
    weights += (errors * observed[..., None] / scale[..., None])[..., None] * gain[..., None, :]
    # The second update starts from what the first leaves; both are then taken off in one pass.
    column = _column(covariance, coordinate) - gain * (_at(gain, coordinate) / scale * observed)[..., None]
    column /= keep[..., None]
    pull = features.shape[-1] * (1 - keep) * prior  # [...]
    shrink = pull / (1 + pull * _at(column, coordinate))
    weights -= (_at(weights, coordinate[..., None]) * shrink[..., None])[..., None] * column[..., None, :]
    gain *= np.sqrt(observed / scale)[..., None]
    column *= np.sqrt(shrink)[..., None]
    taken = gain[..., :, None] * gain[..., None, :]
    covariance -= taken
    covariance *= (1 / keep)[..., None, None]
    covariance -= np.multiply(column[..., :, None], column[..., None, :], out=taken)


def _at(vectors: Floats, coordinate: Ints) -> Floats:
    """[...] of [..., k]: the coordinate whose turn it is."""
    return np.take_along_axis(vectors, np.broadcast_to(coordinate, vectors.shape[:-1])[..., None], -1)[..., 0]


def _column(matrices: Floats, coordinate: Ints) -> Floats:
    """[..., k] of [..., k, k], symmetric: the row whose turn it is."""
    return np.take_along_axis(matrices, coordinate[..., None, None], -2)[..., 0, :]
