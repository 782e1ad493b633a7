"""A session's own correction of the readout, learned from every error by recursive least squares.

The prediction of output o is that of the network plus w_o . f, where f is a vector of features and w_o
starts at zero. At each observation the error e of its prediction moves w:

    g = P f        s = forgetting + f . g
    w_o += e_o g / s                            P <- (P - g g' / s) / forgetting

which minimises the sum over the past of forgetting^age (y - w . f)^2 (Haykin, Adaptive Filter Theory, 4th
ed., chapter 9). On its own this forgets the prior, too, and where f does not excite a direction, P grows
without bound ("wind-up"). So the prior is renewed. At each observation the coefficient w_oi of one feature i,
the next in cyclic order, is treated as observed to be zero, with the weight that the prior loses over a whole
cycle (Gay, Dynamically regularized fast RLS with application to echo cancellation, ICASSP 1996):

    a = k (1 - forgetting) prior    g = P u_i    s = 1 + a g_i
    w_o -= a w_oi g / s             P <- P - a g g' / s

P stays below about 1 / prior, and a correction that the data no longer supports fades.

Numerics. Only g g' is ever subtracted, and its two triangles are the same products, so P stays exactly
symmetric. With P symmetric and the prior renewed, rounding errors decay as old observations do (Ljung and
Ljung, Error propagation properties of recursive least-squares adaptation algorithms, Automatica 1985).
If P still stops being positive, the session's P is initialized again and its w stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.arrays import Bools, Floats, Ints

BLOCK_BYTES = 2**20


def initialize(weights: Floats, covariance: Floats, prior: Floats) -> None:
    """Make readouts that correct nothing yet, in place.

    Parameters
    ----------
    weights : [..., outputs, k]; covariance : [..., k, k]; prior : [...]
    """
    weights[...] = 0.0
    covariance[...] = 0.0
    place = np.arange(covariance.shape[-1])
    covariance[..., place, place] = 1.0 / prior[..., None]


def corrections(weights: Floats, features: Floats) -> Floats:
    """What is added to the network's predictions.

    Parameters
    ----------
    weights : [..., outputs, k]; features : [..., k]

    Returns
    -------
    [..., outputs]
    """
    return np.asarray(np.matmul(weights, features[..., None])[..., 0])


@dataclass(slots=True)
class Readouts:
    """The readouts of some sessions, and how each learns. `update` changes `weights` and `covariance`.

    weights : [..., outputs, k]
    covariance : [..., k, k], symmetric
    forgetting : [...]
    prior : [...], precision of the prior: how strongly `weights` is pulled towards 0 (ridge regression)
    renewed_feature : [...], index below k of the feature whose prior the next update renews; it cycles
    """

    weights: Floats
    covariance: Floats
    forgetting: Floats
    prior: Floats
    renewed_feature: Ints

    def block(self, sessions: slice) -> Readouts:
        """The readouts of these sessions, as views."""
        return Readouts(
            self.weights[sessions],
            self.covariance[sessions],
            self.forgetting[sessions],
            self.prior[sessions],
            self.renewed_feature[sessions],
        )


def update(readouts: Readouts, features: Floats, errors: Floats, observed: Bools) -> None:
    """Learn from the errors of one prediction of each session, in place.

    Parameters
    ----------
    features : [..., k], of the prediction
    errors : [..., outputs], observed minus predicted; 0 where not observed
    observed : [...], whether anything was observed; where not, nothing is learned or forgotten
    """
    step = max(1, BLOCK_BYTES // max(1, readouts.covariance[:1].nbytes))
    for start in range(0, len(readouts.weights), step):
        block = slice(start, start + step)
        _update(readouts.block(block), features[block], errors[block], observed[block])


def _update(readouts: Readouts, features: Floats, errors: Floats, observed: Bools) -> None:
    """`update` for a block of sessions whose covariances fit in the processor's cache."""
    weights, covariance = readouts.weights, readouts.covariance
    forgetting, prior, feature = readouts.forgetting, readouts.prior, readouts.renewed_feature
    gain = np.matmul(covariance, features[..., None])[..., 0]  # [..., k]
    scale = (features * gain).sum(-1)  # above 0, unless rounding has made the covariance invalid
    lost = observed & ~(scale >= 0)
    if lost.any():
        initialize(np.empty_like(weights[lost]), renewed := np.empty_like(covariance[lost]), prior[lost])
        covariance[lost] = renewed
        observed = observed & ~lost
    keep = np.where(observed, forgetting, np.float32(1))
    scale += keep
    weights += (errors * observed[..., None] / scale[..., None])[..., None] * gain[..., None, :]
    # The second update uses the result of the first; both are then subtracted in one pass over P.
    column = _column(covariance, feature) - gain * (_at(gain, feature) / scale * observed)[..., None]
    column /= keep[..., None]
    pull = features.shape[-1] * (1 - keep) * prior  # [...]
    shrink = pull / (1 + pull * _at(column, feature))
    weights -= (_at(weights, feature[..., None]) * shrink[..., None])[..., None] * column[..., None, :]
    gain *= np.sqrt(observed / scale)[..., None]
    column *= np.sqrt(shrink)[..., None]
    product = gain[..., :, None] * gain[..., None, :]
    covariance -= product
    covariance *= (1 / keep)[..., None, None]
    covariance -= np.multiply(column[..., :, None], column[..., None, :], out=product)


def _at(vectors: Floats, index: Ints) -> Floats:
    """[...], the number at this index of each of [..., k]."""
    return np.take_along_axis(vectors, np.broadcast_to(index, vectors.shape[:-1])[..., None], -1)[..., 0]


def _column(matrices: Floats, index: Ints) -> Floats:
    """[..., k], the row at this index of each of [..., k, k], which are symmetric."""
    return np.take_along_axis(matrices, index[..., None, None], -2)[..., 0, :]
