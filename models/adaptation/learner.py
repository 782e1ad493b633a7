"""What a session learns of its own stream, batched over sessions: its part of the carry, and how it moves.

Each observation meets the prediction that had been made for it. The error corrects the readout
(`models.readout`), moves the intervals (`models.intervals`) and is judged (`models.surprise`); then the
network steps, and its output is corrected into the next prediction. All of it lies in one stretch of float32
of the session's carry, which `Layout` names; a session that begins holds `Learner.new_carry` there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import Any

import numpy as np

from models.adaptation import intervals, readout, surprise
from models.arrays import Floats
from models.artifact.artifact import Artifact
from models.artifact.learning import Learning, feature_count

Shape = tuple[int, ...]

WINDOW = 100_000  # running means fade beyond about so many observations: float32 would not move any more
SCALE_WINDOW = 200  # of the recent size of errors that intervals are widths over
SURPRISE_WINDOW = 500  # of the one that surprise is over
MEANS = ("known", "square", "slow", "observed", "mse", "mae", "persistence")
FURTHEST = np.float32(100)  # scaled units; beyond, an observation weighs less: a spike may not undo a readout
SMALLEST_SCALE = np.float32(1e-6)  # of a scale: a stream that is predicted exactly still has intervals


@dataclass(frozen=True, slots=True)
class Scores:
    """What was found out about the observations of a pass, laid out as they are.

    errors : [total, outputs], observed minus predicted; NaN where either is missing
    scores : [total], in [0, 1); NaN where nothing was judged
    widths : [total, levels, outputs], half-widths around the prediction behind each observation
    changes : [total, outputs], observed minus what was observed before it: the errors of persistence
    missed : [total, levels, outputs], 1 where the observation was outside its interval
    """

    errors: Floats
    scores: Floats
    widths: Floats
    changes: Floats
    missed: Floats

    @classmethod
    def empty(cls, total: int, outputs: int, levels: int) -> Scores:
        """To be filled in."""
        by_level = (total, levels, outputs)
        shapes = ((total, outputs), (total,), by_level, (total, outputs), by_level)
        return cls(*(np.zeros(shape, np.float32) for shape in shapes))

    def pick(self, which: Any) -> Scores:
        """Of some observations, an index of NumPy's."""
        return Scores(*(getattr(self, one.name)[which] for one in fields(self)))

    def rescale(self, unit: Floats) -> Scores:
        """The same in other units: `unit` [outputs] of them are one of these."""
        return Scores(self.errors * unit, self.scores, self.widths * unit, self.changes * unit, self.missed)

    def put(self, which: Any, of_them: Scores) -> None:
        """Fill in what was found out about some observations."""
        for one in fields(self):
            getattr(self, one.name)[which] = getattr(of_them, one.name)


@dataclass(frozen=True, slots=True)
class ErrorStatistics:
    """How wrong a session has been since it was made or reset (of late, once that is long), own units.

    Each is [outputs], NaN where nothing was observed yet, but `coverage`: [levels, outputs].
    """

    observed: Floats  # how many
    mse: Floats
    mae: Floats
    persistence: Floats  # the MSE of saying what was observed last
    coverage: Floats  # share of the observations within the interval

    def rescale(self, unit: Floats) -> ErrorStatistics:
        """The same in other units: `unit` [outputs] of them are one of these."""
        return ErrorStatistics(
            self.observed, self.mse * unit**2, self.mae * unit, self.persistence * unit**2, self.coverage
        )


class Learner:
    """The learning part of sessions of one artifact.

    Parameters
    ----------
    artifact : its targets all among its inputs
    learning : on
    """

    def __init__(self, artifact: Artifact, learning: Learning) -> None:
        self.learning = learning
        self.levels = np.array(learning.levels, np.float32)
        self.target_columns = [artifact.columns.index(name) for name in artifact.targets]
        self._basis = artifact.weights.get("readout.basis")
        outputs = artifact.output_size
        self._size = feature_count(learning, artifact.hidden_size, artifact.input_size)
        groups, each = (outputs, 1) if learning.readout == "gain" else (1, outputs)
        shapes: dict[str, Shape] = {"begun": (), "level": ()}
        if learning.adapts_readout:
            shapes |= {"forgetting": (), "prior": (), "coordinate": (), "features": (groups, self._size)}
            shapes |= {"weights": (groups, each, self._size), "covariance": (groups, self._size, self._size)}
        if learning.tracks_errors:
            by_level = (len(learning.levels), outputs)
            shapes |= dict.fromkeys(MEANS, (outputs,))
            shapes |= {"ratios": by_level, "missed": by_level, "surprise": (), "histogram": (surprise.BINS,)}
        self._places: dict[str, tuple[int, Shape]] = {}
        self.size = 0
        for name, shape in shapes.items():
            self._places[name] = (self.size, shape)
            self.size += prod(shape)
        self._fresh = self.initial_state(learning)

    def initial_state(self, learning: Learning) -> Floats:
        """[size], a session that begins, and chose this way to learn, of this layout."""
        rows = np.zeros((1, self.size), np.float32)
        if learning.adapts_readout:
            self._view(rows, "forgetting")[...] = learning.forgetting
            self._view(rows, "prior")[...] = learning.prior
            self._begin_readout(rows)
        if learning.tracks_errors:
            ratios, square = intervals.initial_state(learning, len(self.target_columns))
            self._view(rows, "ratios")[...] = ratios
            self._view(rows, "square")[...] = self._view(rows, "slow")[...] = square
            self._view(rows, "surprise")[...] = 1.0
        return np.asarray(rows[0])

    def reset(self, rows: Floats) -> Floats:
        """[batch, size], the beginning of these sessions again: what they chose stays."""
        again = np.repeat(self._fresh[None], len(rows), axis=0)
        if self.learning.adapts_readout:
            for name in ("forgetting", "prior"):
                self._view(again, name)[...] = self._view(rows, name)
            self._begin_readout(again)
        self._view(again, "level")[...] = self._view(rows, "level")
        return again

    def level(self, rows: Floats) -> Any:
        """[batch], a view: the level of the intervals that each session wants with every chunk; 0 is none."""
        return self._view(rows, "level")

    def learn(self, rows: Floats, predicted: Floats, observed: Floats, judged: Scores, at: Any) -> None:
        """Learn from one observation of each session, in place.

        Parameters
        ----------
        rows : [batch, size]
        predicted : [batch, outputs], scaled; what was said of this observation, if the session has begun
        observed : [batch, outputs], scaled; NaN where it was not
        judged, at : where to tell what was found out, scaled, and at which of its places
        """
        begun = self._view(rows, "begun")
        errors = np.where(begun[:, None] > 0, observed - predicted, np.float32(np.nan))
        if self.learning.adapts_readout:
            self._correct_from(rows, errors)
        judged.errors[at] = errors
        if self.learning.tracks_errors:
            self._judge(rows, errors, observed, judged, at)
        else:
            judged.scores[at] = np.nan
        begun[...] = 1.0

    def predict(self, rows: Floats, hidden: Floats, inputs: Floats, outputs: Floats) -> Floats:
        """The network's outputs corrected; what they were made of is kept for the next observation.

        Parameters
        ----------
        rows : [batch, size]
        hidden : [batch, hidden], of the last layer
        inputs : [batch, inputs], scaled, none missing
        outputs : [batch, outputs], the network's own, scaled
        """
        if not self.learning.adapts_readout:
            return outputs
        seen = self._view(rows, "features")
        if self.learning.readout == "gain":
            seen[:, :, 0] = outputs
        else:
            stop = 0
            for part in (hidden if self._basis is None else hidden @ self._basis, inputs):
                if part is not inputs or self.learning.inputs:
                    start, stop = stop, stop + part.shape[1]
                    seen[:, 0, start:stop] = part
        seen[..., -1] = 1.0
        corrections = readout.corrections(self._view(rows, "weights"), seen)
        return outputs + corrections.reshape(outputs.shape)

    def widths(self, rows: Floats) -> Floats:
        """[batch, levels, outputs], half-widths of the intervals around the next prediction, scaled."""
        if not self.learning.tracks_errors:
            return np.empty((len(rows), 0, len(self.target_columns)), np.float32)
        scale = np.sqrt(self._view(rows, "square")) + SMALLEST_SCALE
        return np.asarray(np.maximum(self._view(rows, "ratios"), 0) * scale[:, None])

    def errors(self, rows: Floats) -> ErrorStatistics:
        """Running means of these sessions, each [batch, ...], scaled."""
        observed = self._view(rows, "observed")
        with np.errstate(invalid="ignore"):
            unknown = np.where(observed > 0, 0, np.nan).astype(np.float32)
        told = {name: self._view(rows, name) + unknown for name in ("mse", "mae", "persistence")}
        return ErrorStatistics(observed, coverage=1 - self._view(rows, "missed") + unknown[:, None], **told)

    def options(self, row: Floats) -> Learning:
        """How one session learns, [size]."""
        if not self.learning.adapts_readout:
            return self.learning
        forgetting, prior = (float(self._view(row[None], name)[0]) for name in ("forgetting", "prior"))
        return self.learning.with_options(forgetting=round(forgetting, 7), prior=round(prior, 6))

    def check(self, row: Floats) -> None:
        """Refuse a stretch of a carry, [size], that no session of this learner could have.

        Raises
        ------
        ValueError
        """
        told = {name: self._view(row[None], name)[0] for name in self._places}
        if told["begun"] not in (0, 1) or (told["level"] and not np.isin(told["level"], self.levels)):
            raise ValueError("the carry's level is none that the session keeps")
        if self.learning.adapts_readout:
            self.options(row)
            if (
                told["coordinate"] not in range(self._size)
                or not (np.diagonal(told["covariance"], 0, 1, 2) > 0).all()
            ):
                raise ValueError("the carry's covariance is none")
        squares = ("square", "slow", "surprise", "histogram", "observed")
        if self.learning.tracks_errors and min(told[name].min() for name in squares) < 0:
            raise ValueError("the carry's squares and counts are below 0")

    def _correct_from(self, rows: Floats, errors: Floats) -> None:
        weights = self._view(rows, "weights")
        by_group = errors.reshape(weights.shape[:-1])  # [batch, groups, outputs of the group]
        seen = ~np.isnan(by_group)
        found = np.where(seen, by_group, np.float32(0))
        features = self._view(rows, "features")
        weight = _weight(np.maximum(np.abs(features).max(-1), np.abs(found).max(-1)))[..., None]
        forgetting, prior, coordinate = (
            self._view(rows, name) for name in ("forgetting", "prior", "coordinate")
        )
        groups = weights.shape[1]
        readout.update(
            weights,
            self._view(rows, "covariance"),
            features * weight,
            found * weight,
            np.asarray(seen.any(-1)),
            np.repeat(forgetting[:, None], groups, axis=1),
            np.repeat(prior[:, None], groups, axis=1),
            np.repeat(coordinate.astype(np.int64)[:, None], groups, axis=1),
        )
        coordinate[...] = (coordinate + 1) % self._size

    def _judge(self, rows: Floats, errors: Floats, observed: Floats, judged: Scores, at: Any) -> None:
        square, slow, count = (self._view(rows, name) for name in ("square", "slow", "observed"))
        sizes = np.abs(errors)
        usual = np.sqrt(slow) + SMALLEST_SCALE
        size = surprise.smooth(self._view(rows, "surprise"), errors, usual)
        judged.scores[at] = surprise.score(self._view(rows, "histogram"), size)
        judged.missed[at] = missed = intervals.track(
            self._view(rows, "ratios"), sizes, np.sqrt(square) + SMALLEST_SCALE, self.levels
        )
        known = self._view(rows, "known")
        judged.changes[at] = naive = observed - known
        seen = ~np.isnan(errors)
        count += seen
        _drift(square, errors * errors, seen, np.minimum(count + 1, SCALE_WINDOW))
        capped = np.square(np.minimum(sizes, surprise.CAP * usual))
        _drift(slow, capped, seen, np.minimum(count + 1, SURPRISE_WINDOW))
        window = np.minimum(np.maximum(count, 1), WINDOW)
        _drift(self._view(rows, "mse"), errors * errors, seen, window)
        _drift(self._view(rows, "mae"), sizes, seen, window)
        _drift(self._view(rows, "persistence"), naive * naive, seen, window)
        _drift(self._view(rows, "missed"), missed, seen[:, None], window[:, None])
        np.copyto(known, observed, where=~np.isnan(observed))

    def _begin_readout(self, rows: Floats) -> None:
        covariance = self._view(rows, "covariance")
        prior = np.repeat(self._view(rows, "prior")[:, None], covariance.shape[1], axis=1)
        readout.initialize(self._view(rows, "weights"), covariance, prior)

    def _view(self, rows: Floats, name: str) -> Any:
        """[batch, *shape], a view: writing to it writes to the rows."""
        start, shape = self._places[name]
        return rows[:, start : start + prod(shape)].reshape(len(rows), *shape)


def _weight(size: Floats) -> Floats:
    """The root of what an observation of this size weighs, as in weighted least squares; at most 1."""
    return np.asarray(np.minimum(FURTHEST / np.maximum(size, 1), 1))


def _drift(mean: Floats, value: Any, seen: Any, window: Any) -> None:
    """Move a running mean on, in place, where something was observed."""
    mean += np.where(seen, (value - mean) / window, np.float32(0))
