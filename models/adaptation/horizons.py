"""Forecasts of several steps, which each session learns directly from its own stream.

For each declared horizon h and each output, a session keeps a linear readout of a few features of its stream.
The target of an observation's features at horizon h is the observation h steps later, so the readout is
corrected h steps later, and a forecast never uses what came after it. Nothing is fed back: an error of step 1
does not grow into an error of step 48.

The readout predicts how far the stream will be from its seasonal profile, the exponentially weighted mean of
the observations at the same phase of the season. The features of an output are its distance from the profile
now, one step ago and almost a season ago, its value, its means over a season and over seven, what the network
predicts for the next step, and 1. One covariance serves all horizons: the gain of recursive least squares
(Haykin, Adaptive Filter Theory, 4th ed., chapter 9) is kept with the features until the last target is there.

The forecast is a convex mixture of that readout, the profile, the value one season ago, the last value, and
the network's next prediction. The weights are those of ML-Poly (Gaillard, Stoltz and van Erven, A
second-order bound with excess losses, COLT 2014), which has no learning rate. Its bound says that the mixture
is in the long run no worse than the best of the five; here old regrets fade, so that it follows a best one
that changes.

Between two declared horizons the readouts and the weights are interpolated, and the profile gives the shape
of the season. Beyond the last one both stay. What a readout says, and beyond the next step what the network
says, is kept within the range that the session has observed, and half of that range on either side.

The half-widths of the intervals are tracked for each horizon as in models/adaptation/intervals.py, by the
errors of its own forecasts, relative to their recent size at that phase of the season.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.adaptation import horizon_kernels as kernels
from models.adaptation.intervals import RATE
from models.adaptation.layout import LearnedLayout, Shape
from models.arrays import Floats, Ints
from models.artifact.learning import Learning, horizon_prior_shapes

MEAN_WINDOWS = (8, 64)  # of the two running means, where a season is shorter than the first
PHASE_BINS = 24  # at most: parts of a season in which the errors have a size of their own
# The experts that a new session trusts beyond the next step, with and without a season.
FIRST_OF_SEASONAL = [kernels.READOUT, kernels.PROFILE, kernels.SEASONAL]
FIRST_OF_OTHERS = [kernels.READOUT, kernels.PERSISTENCE, kernels.NETWORK]
USUAL_PHASE = np.sqrt(2 / np.pi)  # mean absolute error of normal errors, over their root mean square
# In the order of `kernels.State`.
PARTS = (
    "clock",
    "range",
    "profile",
    "values",
    "deviations",
    "previous",
    "means",
    "delayed",
    "readouts",
    "variances",
    "pending",
    "regrets",
    "regret_squares",
    "mixture",
    "sizes",
    "horizon_ratios",
    "phase_sizes",
)
# Those that depend on the kind of the stream, and less on its past: a new session may begin with them.
PRIOR_PARTS = ("readouts", "variances", "mixture", "sizes", "horizon_ratios")


class HorizonLearner:
    """The forecasts of the sessions of one artifact. The state is passed in, laid out by `LearnedLayout`.

    Parameters
    ----------
    learning : with horizons and levels
    outputs : targets of the network
    layout : of the states
    """

    def __init__(self, learning: Learning, outputs: int, layout: LearnedLayout) -> None:
        horizons = np.array(learning.horizons, np.int64)
        starts = np.cumsum(horizons) - horizons
        season = float(learning.season)
        windows = np.array((season, 7 * season) if season >= MEAN_WINDOWS[0] else MEAN_WINDOWS, np.float64)
        levels = np.array(learning.levels, np.float32)
        parts = np.zeros((len(PARTS), 4), np.int64)
        for part, (name, shape) in zip(parts, shapes(learning, outputs).items(), strict=True):
            part[: 1 + len(shape)] = layout.start(name), *shape
        self._setting = kernels.Setting(horizons, starts, windows, levels, parts, RATE)
        self._outputs, self._view = outputs, layout.view

    def initialize(self, rows: Floats, ratios: Floats, square: Floats) -> None:
        """Write the state of sessions without observations over zeros.

        Parameters
        ----------
        ratios : [levels, outputs], half-widths of the intervals over the size of the errors
        square : [outputs], mean squared error of the next prediction
        """
        state = kernels.State(*(self._view(rows, name) for name in PARTS))
        state.variances[...] = np.eye(kernels.FEATURES) / kernels.PRECISION
        seasonal = state.profile.shape[1] > 1
        first = FIRST_OF_SEASONAL if seasonal else FIRST_OF_OTHERS
        state.mixture[:, 0, :, kernels.NETWORK] = 1
        state.mixture[:, 1:, :, first] = 1 / len(first)
        state.sizes[...] = square
        state.phases[...] = USUAL_PHASE
        state.ratios[...] = ratios / USUAL_PHASE

    def phases(self, rows: Floats) -> Ints:
        """[batch], where in the season the last observation of each session was."""
        following = self._view(rows, "clock")[:, 1].astype(np.int64)
        season = self._view(rows, "profile").shape[1]
        return np.asarray((following - 1) % season)

    def check(self, rows: Floats) -> None:
        """Validate imported states: the compiled loops trust the places in the clock.

        Raises
        ------
        ValueError : no session could have produced one of them
        """
        state = kernels.State(*(self._view(rows, name) for name in PARTS))
        count, phase, places = state.clock[:, 0], state.clock[:, 1], state.clock[:, 2:]
        horizons = self._setting.horizons
        ends = np.concatenate([horizons[-1:], horizons[:-1]])
        whole = (state.clock == np.floor(state.clock)).all() and (state.clock >= 0).all()
        season = state.profile.shape[1]
        known = whole and (count <= kernels.LARGEST_COUNT).all() and (phase < season).all()
        if not known or not (places < ends).all():
            raise ValueError("the clock of the carry's forecasts is not a place in their rings")
        # A variance may be below 0, by rounding: the kernels begin again where that makes a gain invalid.
        if min(part.min() for part in (state.sizes, state.phases, state.squares, state.mixture)) < 0:
            raise ValueError("a size, a weight or a square of the carry's forecasts is below 0")

    def observe(self, rows: Floats, observed: Floats, filled: Floats) -> None:
        """Learn from one observation of each session, in place.

        Parameters
        ----------
        rows : [batch, size]
        observed : [batch, outputs], scaled; NaN where nothing was observed
        filled : the same with the prediction in the place of each NaN
        """
        kernels.observe(self._setting, rows, observed, filled)

    def predict(self, rows: Floats, network: Floats) -> Floats:
        """The mixture's prediction of the next observation. Keeps what it is to learn from, in place.

        Parameters
        ----------
        rows : [batch, size]
        network : [batch, outputs], the network's prediction

        Returns
        -------
        [batch, outputs]
        """
        mixed = np.empty_like(network)
        kernels.predict(self._setting, rows, network, mixed)
        return mixed

    def network_prediction(self, rows: Floats) -> Any:
        """[batch, outputs], a view: what the network predicted of the next observation."""
        return self._view(rows, "pending")[:, 0, :, kernels.NETWORK]

    def forecast(self, rows: Floats, first: Ints, steps: int) -> Floats:
        """Forecasts of sessions that have observed something: [batch, steps, outputs], scaled.

        Parameters
        ----------
        first : [batch], the first step; 1 is the next observation
        """
        values = np.empty((len(rows), steps, self._outputs), np.float32)
        kernels.forecast(self._setting, rows, first, values)
        return values

    def half_widths(self, rows: Floats, steps: int) -> Floats:
        """Half-widths of the intervals of the next steps: [batch, steps, levels, outputs], scaled."""
        widths = np.empty((len(rows), steps, len(self._setting.levels), self._outputs), np.float32)
        kernels.half_widths(self._setting, rows, widths)
        return widths


def shapes(learning: Learning, outputs: int) -> dict[str, Shape]:
    """The parts of one session's state, as in `kernels.State`: stored carries depend on their order."""
    count, season, features = len(learning.horizons), learning.season, kernels.FEATURES
    prior = horizon_prior_shapes(learning, outputs)
    others: dict[str, Shape] = {
        "phase_sizes": (2 * min(season, PHASE_BINS), outputs),
        "clock": (2 + count,),
        "range": (2, outputs),
        "previous": (outputs,),
        "means": (2, outputs),
        "delayed": (learning.horizons[-1], outputs, 2 * features),
        "pending": (sum(learning.horizons), outputs, kernels.EXPECTED),
    }
    others |= dict.fromkeys(("profile", "values", "deviations"), (season, outputs))
    others |= dict.fromkeys(("regrets", "regret_squares"), prior["mixture"])
    return {name: prior.get(name) or others[name] for name in PARTS}
