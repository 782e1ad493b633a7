"""What sessions learn of their own streams, batched over sessions.

The error of each prediction corrects the readout (models/adaptation/readout.py), moves the intervals
(models/adaptation/intervals.py) and is scored (models/adaptation/surprise.py). What a session has learned
is stored in its carry, as one contiguous block of float32 numbers. `LearnedLayout` says where each part is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from models.adaptation import horizons, intervals, readout, surprise
from models.adaptation.horizons import HorizonLearner
from models.adaptation.layout import LearnedLayout, Shape
from models.arrays import Floats, Ints, Numbers
from models.artifact.artifact import HORIZONS, Artifact
from models.artifact.learning import Learning, feature_count
from models.nets.layers import Linear

WINDOW = 100_000  # longest window of a running mean; beyond it, float32 rounding loses new values
SCALE_WINDOW = 200  # window of the mean squared error that scales the intervals (part `interval_mse`)
SURPRISE_WINDOW = 500  # window of the mean squared error that scales the surprise (part `surprise_mse`)
# Parts with one number for each output, in the order of stored carries. `last_observed` is the last observed
# value. `observed` counts the observations that had a prediction. `mse`, `mae` and `persistence` are mean
# errors over WINDOW.
OUTPUT_PARTS = ("last_observed", "interval_mse", "surprise_mse", "observed", "mse", "mae", "persistence")
# In scaled units. Larger values get less weight, so that a single spike does not ruin a readout.
FULL_WEIGHT_SIZE = np.float32(100)
SMALLEST_SCALE = np.float32(1e-6)  # added to an error size, so that intervals never have the width 0
# Times its usual size, at most, an error adds to the scale of the intervals: after one wrong value of a
# million standard deviations they would be useless for some thousand observations.
LARGEST_ERROR = np.float32(30)


@dataclass(frozen=True, slots=True)
class Scores:
    """Errors and scores of the observations of one pass, in the same order as the observations.

    errors : [total, outputs], observed minus predicted; NaN where either is missing
    scores : [total], the surprise, in [0, 1); NaN where nothing was scored
    widths : [total, levels, outputs], half-widths around the prediction that follows each observation
    changes : [total, outputs], observed minus what was observed before it: the errors of persistence
    missed : [total, levels, outputs], 1 where the observation was outside its interval
    units : [total, outputs], one unit of scaled errors, in these units; NaN while a session seeks its scale
    """

    errors: Floats
    scores: Floats
    widths: Floats
    changes: Floats
    missed: Floats
    units: Floats

    @classmethod
    def empty(cls, total: int, outputs: int, levels: int) -> Scores:
        """Scaled, and zeros that `Learner.learn` fills in."""
        by_level = (total, levels, outputs)
        shapes = ((total, outputs), (total,), by_level, (total, outputs), by_level)
        errors, scores, widths, changes, missed = (np.zeros(shape, np.float32) for shape in shapes)
        return cls(errors, scores, widths, changes, missed, np.ones((total, outputs), np.float32))

    @classmethod
    def join(cls, parts: list[Scores]) -> Scores:
        """The scores of several passes, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def pick(self, which: Any) -> Scores:
        """The scores of the observations that the NumPy index `which` selects."""
        return Scores(*(getattr(self, field.name)[which] for field in fields(self)))

    def rescale(self, unit: Floats) -> Scores:
        """The same in other units.

        `unit`: [outputs], or [total, outputs], how many new units make one present unit.
        """
        widths = self.widths * unit[..., None, :]
        changes, units = self.changes * unit, self.units * unit
        return Scores(self.errors * unit, self.scores, widths, changes, self.missed, units)

    def put(self, which: Any, scores: Scores) -> None:
        """Fill in the scores of the observations that the NumPy index `which` selects."""
        for field in fields(self):
            getattr(self, field.name)[which] = getattr(scores, field.name)


@dataclass(frozen=True, slots=True)
class ErrorStatistics:
    """The errors of sessions since they were created or reset.

    Running means; beyond `WINDOW` observations, old ones lose weight. Each is [..., outputs], `coverage` is
    [..., levels, outputs]; NaN where nothing was observed yet.

    observed : how many observations
    mse, mae : mean squared and mean absolute error of the predictions
    persistence : mean squared error of predicting the last observation
    coverage : share of the observations within the interval
    """

    observed: Floats
    mse: Numbers
    mae: Numbers
    persistence: Numbers
    coverage: Floats

    def rescale(self, unit: Floats) -> ErrorStatistics:
        """The same in other units; `unit` [outputs], or [..., outputs]: new units in one present unit."""
        unit = unit.astype(np.float64)  # the square of 1e20, and of 1e-25, is no float32
        return ErrorStatistics(
            self.observed, self.mse * unit**2, self.mae * unit, self.persistence * unit**2, self.coverage
        )


class Learner:
    """Updates what sessions of one artifact learn. The state is passed in; the object itself holds none.

    Parameters
    ----------
    artifact : all its targets are among its inputs
    learning : how sessions learn; must be enabled

    Attributes
    ----------
    size : how many numbers a session learns; the number of columns of `rows` below
    levels : [levels], of the intervals
    target_columns : for each output its input column
    """

    def __init__(self, artifact: Artifact, learning: Learning) -> None:
        self.learning = learning
        self.levels = np.array(learning.levels, np.float32)
        self.target_columns = [artifact.columns.index(name) for name in artifact.targets]
        # [hidden, rank], projects the hidden state to fewer features; None where all of it is used
        basis = artifact.weights.get("readout.basis")
        self._project = None if basis is None else Linear(basis.T, np.zeros(basis.shape[1], np.float32))
        self._features = feature_count(learning, artifact.hidden_size, artifact.input_size)
        self.layout = LearnedLayout(_shapes(learning, self._features, artifact.output_size))
        self.size = self.layout.size
        self._view = self.layout.view
        self._horizons = None
        if learning.forecasts_directly:
            self._horizons = HorizonLearner(learning, artifact.output_size, self.layout)
        prior = {name: artifact.weights.get(HORIZONS + name) for name in horizons.PRIOR_PARTS}
        self._prior = {name: part for name, part in prior.items() if part is not None}
        self._initial = self.initial_state(learning)

    def initial_state(self, learning: Learning) -> Floats:
        """[size], the state of a session without observations. `learning` must have this learner's layout."""
        rows = np.zeros((1, self.size), np.float32)
        if learning.adapts_readout:
            self._view(rows, "forgetting")[...] = learning.forgetting
            self._view(rows, "prior")[...] = learning.prior
            self._initialize_readout(rows)
        if learning.tracks_errors:
            ratios, square = intervals.initial_state(learning, len(self.target_columns))
            self._view(rows, "ratios")[...] = ratios
            self._view(rows, "interval_mse")[...] = self._view(rows, "surprise_mse")[...] = square
            self._view(rows, "surprise")[...] = 1.0
            if self._horizons is not None:
                self._horizons.initialize(rows, ratios, square)
                for name, part in self._prior.items():
                    self._view(rows, name)[...] = part
        return np.asarray(rows[0])

    def reset(self, rows: Floats) -> Floats:
        """[batch, size], the states of the same sessions after a reset. Their options and level are kept."""
        cleared = np.repeat(self._initial[None], len(rows), axis=0)
        if self.learning.adapts_readout:
            for name in ("forgetting", "prior"):
                self._view(cleared, name)[...] = self._view(rows, name)
            self._initialize_readout(cleared)
        self._view(cleared, "level")[...] = self._view(rows, "level")
        return cleared

    def level(self, rows: Floats) -> Any:
        """[batch], a view: the level of the intervals in every answer to the session; 0 for no intervals."""
        return self._view(rows, "level")

    def learn(self, rows: Floats, predicted: Floats, observed: Floats, scores: Scores, which: Any) -> None:
        """Learn from one observation of each session, in place.

        Parameters
        ----------
        rows : [batch, size]
        predicted : [batch, outputs], scaled; the prediction of this observation; ignored for a
            session without earlier observations
        observed : [batch, outputs], scaled; NaN where nothing was observed
        scores : filled in at the index `which`, in scaled units
        which : NumPy index of this step's observations
        """
        begun = self._view(rows, "begun")
        errors = np.where(begun[:, None] > 0, observed - predicted, np.float32(np.nan))
        if self.learning.adapts_readout:
            of_readout = errors
            if self._horizons is not None:  # `predicted` is that of a mixture
                of_readout = errors + predicted - self._horizons.network_prediction(rows)
            self._correct_readout(rows, of_readout)
        scores.errors[which] = errors
        if self.learning.tracks_errors:
            self._track_errors(rows, errors, observed, scores, which)
        else:
            scores.scores[which] = np.nan
        if self._horizons is not None:
            first_value = np.where(begun[:, None] > 0, predicted, np.float32(0))
            self._horizons.observe(rows, observed, np.where(np.isnan(observed), first_value, observed))
        begun[...] = 1.0

    def predict(self, rows: Floats, hidden: Floats, inputs: Floats, outputs: Floats) -> Floats:
        """Correct the network's outputs. Keeps the features, from which the next observation is learned.

        Parameters
        ----------
        rows : [batch, size]
        hidden : [batch, hidden], of the last layer
        inputs : [batch, inputs], scaled, none missing
        outputs : [batch, outputs], the network's own, scaled

        Returns
        -------
        [batch, outputs], scaled
        """
        corrected = self._correct(rows, hidden, inputs, outputs)
        return corrected if self._horizons is None else self._horizons.predict(rows, corrected)

    def widths(self, rows: Floats) -> Floats:
        """[batch, levels, outputs], half-widths of the intervals around the next prediction, scaled."""
        if not self.learning.tracks_errors:
            return np.empty((len(rows), 0, len(self.target_columns)), np.float32)
        if self._horizons is not None:
            return np.asarray(self._horizons.half_widths(rows, 1)[:, 0])
        scale = np.sqrt(self._view(rows, "interval_mse")) + SMALLEST_SCALE
        return np.asarray(intervals.in_order(self._view(rows, "ratios")) * scale[:, None])

    def forecast(self, rows: Floats, first: Ints, steps: int) -> Floats:
        """[batch, steps, outputs], scaled: of a learner with horizons.

        Parameters
        ----------
        rows : [batch, size], of sessions that have observed something
        first : [batch], the first step; 1 is the next observation
        """
        if self._horizons is None:
            raise LookupError("the sessions feed predictions back")
        return self._horizons.forecast(rows, first, steps)

    def forecast_widths(self, rows: Floats, steps: int) -> Floats:
        """[batch, steps, levels, outputs], half-widths of the intervals of a forecast, scaled."""
        if self._horizons is not None:
            return self._horizons.half_widths(rows, steps)
        growth = intervals.growth(self.learning, steps)
        return np.asarray(self.widths(rows)[:, None] * growth[:, None, None])

    def errors(self, rows: Floats) -> ErrorStatistics:
        """The error statistics of these sessions, each [batch, ...], scaled."""
        observed = self._view(rows, "observed")
        with np.errstate(invalid="ignore"):
            nan_where_unobserved = np.where(observed > 0, 0, np.nan).astype(np.float32)
        means = {
            name: self._view(rows, name) + nan_where_unobserved for name in ("mse", "mae", "persistence")
        }
        return ErrorStatistics(
            observed, coverage=1 - self._view(rows, "missed") + nan_where_unobserved[:, None], **means
        )

    def relative_errors(self, rows: Floats, which: Ints) -> Floats:
        """[n], of the sessions `which`, their mean squared errors as a multiple of persistence's.

        Of several outputs it is their mean: errors in different units are compared by this alone. NaN where
        nothing was observed yet, or nothing has changed.
        """
        observed, mse, persistence = (
            self._view(rows, name)[which] for name in ("observed", "mse", "persistence")
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            known = (observed > 0) & (persistence > 0)
            ratios = np.where(known, mse / persistence, 0)
            return np.asarray(ratios.sum(axis=1) / known.sum(axis=1))

    def last_scores(self, rows: Floats, which: Ints) -> Floats:
        """[n], of the sessions `which`, the surprise of their last observations; NaN where there is none."""
        scores = np.empty(len(which), np.float32)
        surprise.last_scores(self._view(rows, "histogram"), self._view(rows, "surprise"), which, scores)
        return scores

    def season_phases(self, rows: Floats) -> Ints | None:
        """[batch], where in the season the last observation of each session was; None without a season."""
        if self._horizons is None or self.learning.season == 1:
            return None
        return self._horizons.phases(rows)

    def options(self, row: Floats) -> Learning:
        """The learning options that are stored in one session's `row`, [size]."""
        if not self.learning.adapts_readout:
            return self.learning
        forgetting, prior = (float(self._view(row[None], name)[0]) for name in ("forgetting", "prior"))
        return self.learning.with_options(forgetting=round(forgetting, 7), prior=round(prior, 6))

    def check(self, row: Floats) -> None:
        """Validate an imported state of shape [size].

        Raises
        ------
        ValueError : no session of this learner could have produced it
        """
        parts = self.layout.parts(row)
        if parts["begun"] not in (0, 1) or (parts["level"] and not np.isin(parts["level"], self.levels)):
            raise ValueError("the carry's `begun` is not 0 or 1, or its level is not a level of the model")
        if self.learning.adapts_readout:
            self.options(row)
            variances = np.diagonal(parts["covariance"], 0, 1, 2)
            if parts["renewed_feature"] not in range(self._features) or not (variances > 0).all():
                raise ValueError(
                    "the carry is invalid: a variance is not positive, or its next feature to regularize "
                    "is out of range"
                )
        squares = ("interval_mse", "surprise_mse", "surprise", "histogram", "observed")
        if self.learning.tracks_errors and min(parts[name].min() for name in squares) < 0:
            raise ValueError("one of the carry's squares or counts is below 0")
        if self._horizons is not None:
            self._horizons.check(row[None])

    def horizons_prior(self, row: Floats) -> dict[str, Floats]:
        """Weights of an artifact, by name, whose sessions begin with the forecasts of this one, [size]."""
        parts = self.layout.parts(row)
        return {HORIZONS + name: parts[name].copy() for name in horizons.PRIOR_PARTS if self._horizons}

    def _correct(self, rows: Floats, hidden: Floats, inputs: Floats, outputs: Floats) -> Floats:
        if not self.learning.adapts_readout:
            return outputs
        features = self._view(rows, "features")
        if self.learning.readout == "gain":
            features[:, :, 0] = outputs
        else:
            stop = 0
            if self._project is not None:
                hidden = self._project(hidden)
            for part in (hidden, inputs):
                if part is not inputs or self.learning.inputs:
                    start, stop = stop, stop + part.shape[1]
                    features[:, 0, start:stop] = part
        features[..., -1] = 1.0
        corrections = readout.corrections(self._view(rows, "weights"), features)
        return outputs + corrections.reshape(outputs.shape)

    def _correct_readout(self, rows: Floats, errors: Floats) -> None:
        weights, renewed_feature = self._view(rows, "weights"), self._view(rows, "renewed_feature")

        # A group is the outputs that share one covariance matrix: each output with `gain`, all with `rls`.
        def for_each_group(values: Any) -> Any:
            return np.repeat(values[:, None], weights.shape[1], axis=1)  # [batch, groups]

        by_group = errors.reshape(weights.shape[:-1])  # [batch, groups, outputs of the group]
        is_observed = ~np.isnan(by_group)
        errors_or_zero = np.where(is_observed, by_group, np.float32(0))
        features = self._view(rows, "features")
        largest = np.maximum(np.abs(features).max(-1), np.abs(errors_or_zero).max(-1))
        weight = _observation_weight(largest)[..., None]
        readouts = readout.Readouts(
            weights,
            self._view(rows, "covariance"),
            for_each_group(self._view(rows, "forgetting")),
            for_each_group(self._view(rows, "prior")),
            for_each_group(renewed_feature.astype(np.int64)),
        )
        readout.update(readouts, features * weight, errors_or_zero * weight, np.asarray(is_observed.any(-1)))
        renewed_feature[...] = (renewed_feature + 1) % self._features

    def _track_errors(
        self, rows: Floats, errors: Floats, observed: Floats, scores: Scores, which: Any
    ) -> None:
        interval_mse, surprise_mse = self._view(rows, "interval_mse"), self._view(rows, "surprise_mse")
        last_observed, count = self._view(rows, "last_observed"), self._view(rows, "observed")
        absolute_errors = np.abs(errors)
        usual_error = np.sqrt(surprise_mse) + SMALLEST_SCALE
        smoothed = surprise.smooth(self._view(rows, "surprise"), errors, usual_error)
        scores.scores[which] = surprise.score(self._view(rows, "histogram"), smoothed)
        if self._horizons is not None:
            missed = np.asarray(absolute_errors[:, None] > self.widths(rows))
        else:
            scale = np.sqrt(interval_mse) + SMALLEST_SCALE
            missed = intervals.track(self._view(rows, "ratios"), absolute_errors, scale, self.levels)
        scores.missed[which] = missed
        scores.changes[which] = changes = observed - last_observed
        has_error = ~np.isnan(errors)
        count += has_error
        squares = errors * errors
        largest = LARGEST_ERROR * (np.sqrt(interval_mse) + SMALLEST_SCALE)
        bounded = np.square(np.minimum(absolute_errors, largest))
        _move_mean(interval_mse, bounded, has_error, np.minimum(count + 1, SCALE_WINDOW))
        capped = np.square(np.minimum(absolute_errors, surprise.CAP * usual_error))
        _move_mean(surprise_mse, capped, has_error, np.minimum(count + 1, SURPRISE_WINDOW))
        window = np.minimum(np.maximum(count, 1), WINDOW)
        _move_mean(self._view(rows, "mse"), squares, has_error, window)
        _move_mean(self._view(rows, "mae"), absolute_errors, has_error, window)
        _move_mean(self._view(rows, "persistence"), changes * changes, has_error, window)
        _move_mean(self._view(rows, "missed"), missed, has_error[:, None], window[:, None])
        np.copyto(last_observed, observed, where=~np.isnan(observed))

    def _initialize_readout(self, rows: Floats) -> None:
        covariance = self._view(rows, "covariance")
        prior = np.repeat(self._view(rows, "prior")[:, None], covariance.shape[1], axis=1)
        readout.initialize(self._view(rows, "weights"), covariance, prior)


def _shapes(learning: Learning, features: int, outputs: int) -> dict[str, Shape]:
    """The parts of what one session learns, in the order of the carry: stored carries depend on it."""
    groups, group_outputs = (outputs, 1) if learning.readout == "gain" else (1, outputs)
    shapes: dict[str, Shape] = {"begun": (), "level": ()}
    if learning.adapts_readout:
        # `prior` is how strongly the readout is pulled towards the trained one. `renewed_feature` cycles
        # through the features, because `readout.update` renews the prior of one feature at each observation.
        shapes |= {"forgetting": (), "prior": (), "renewed_feature": (), "features": (groups, features)}
        shapes |= {"weights": (groups, group_outputs, features), "covariance": (groups, features, features)}
    if learning.tracks_errors:
        # Where horizons are learned, nothing reads `ratios` and `interval_mse`. They stay, because a carry
        # without them would need another fingerprint: sessions that are stored would be refused, for 21 of
        # 18,683 numbers (7 outputs, 2 levels, horizons of 1, 24 and 96 steps).
        by_level = (len(learning.levels), outputs)
        shapes |= dict.fromkeys(OUTPUT_PARTS, (outputs,))
        shapes |= {"ratios": by_level, "missed": by_level, "surprise": (), "histogram": (surprise.BINS,)}
    if learning.forecasts_directly:
        shapes |= horizons.shapes(learning, outputs)
    return shapes


def _observation_weight(size: Floats) -> Floats:
    """Square root of the least-squares weight of an observation: 1 up to FULL_WEIGHT_SIZE, then falling."""
    return np.asarray(np.minimum(FULL_WEIGHT_SIZE / np.maximum(size, 1), 1))


def _move_mean(mean: Floats, value: Any, is_observed: Any, window: Any) -> None:
    """Add a value to a running mean, in place, where it was observed."""
    mean += np.where(is_observed, (value - mean) / window, np.float32(0))
