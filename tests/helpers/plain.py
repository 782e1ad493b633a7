"""A reference implementation of a session that learns, in Python and float64, one observation at a time.

Written from the formulas in the docstrings of `models.readout` and `models.intervals`, and sharing nothing
with them but the constants: no batches, no layout of a carry, no numerical form.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from models.adaptation.intervals import RATE
from models.adaptation.learner import SCALE_WINDOW, SMALLEST_SCALE
from models.artifact.artifact import Artifact
from models.artifact.learning import Learning

Row = Sequence[float | None]


class Said(NamedTuple):
    """Behind one observation, own units: by output; the half-widths by level and output."""

    prediction: list[float]
    errors: list[float | None]
    widths: list[list[float]]


def predicted(artifact: Artifact, learning: Learning, rows: Sequence[Row]) -> list[Said]:
    """What a session says behind each of its rows; None in a row was not observed."""
    session = _Session(artifact, learning)
    return [session.observe(row) for row in rows]


class _Session:
    def __init__(self, artifact: Artifact, learning: Learning) -> None:
        self.artifact, self.learning = artifact, learning
        self.outputs = range(artifact.output_size)
        self.weights = {name: value.astype(np.float64) for name, value in artifact.weights.items()}
        self.hidden = self.cell = np.zeros(artifact.hidden_size)
        self.predicted = [0.0 for _ in self.outputs]  # scaled, as everything here
        self.begun = False
        self.readouts: list[_Readout] = []
        self.bands = [[_Band(level) for _ in self.outputs] for level in learning.levels]

    def observe(self, row: Row) -> Said:
        """Process an observation of a one-layer network that predicts changes of its inputs."""
        artifact, scaling = self.artifact, self.artifact.scaling
        scaled = [
            None if value is None else (value - scaling.mean[i]) / scaling.std[i]
            for i, value in enumerate(row)
        ]
        observed = [scaled[artifact.columns.index(name)] for name in artifact.targets]
        errors = [
            None if value is None or not self.begun else value - predicted
            for value, predicted in zip(observed, self.predicted, strict=True)
        ]
        self._learn(errors)
        stand_ins = [self.predicted[artifact.targets.index(name)] for name in artifact.columns]
        inputs = [own if value is None else value for value, own in zip(scaled, stand_ins, strict=True)]
        self._predict(np.array(inputs))
        unit = artifact.target_scaling.std
        return Said(
            [self.predicted[o] * unit[o] + artifact.target_scaling.mean[o] for o in self.outputs],
            [None if error is None else error * unit[o] for o, error in enumerate(errors)],
            [[band.width * unit[o] for o, band in enumerate(bands)] for bands in self.bands],
        )

    def _learn(self, errors: list[float | None]) -> None:
        self.begun = True
        for readout in self.readouts:
            readout.learn([errors[o] for o in readout.outputs])
        for bands in self.bands:
            for band, error in zip(bands, errors, strict=True):
                band.learn(error)

    def _predict(self, inputs: Any) -> None:
        w = self.weights
        gates = w["lstm.weight_ih_l0"] @ inputs + w["lstm.bias_ih_l0"]
        gates = gates + w["lstm.weight_hh_l0"] @ self.hidden + w["lstm.bias_hh_l0"]
        let_in, forget, new, let_out = np.split(gates, 4)
        self.cell = _sigmoid(forget) * self.cell + _sigmoid(let_in) * np.tanh(new)
        self.hidden = _sigmoid(let_out) * np.tanh(self.cell)
        own = w["fc.weight"] @ self.hidden + w["fc.bias"]
        own = [own[o] + inputs[i] for o, i in enumerate(self.artifact.change_of or ())]
        if not self.readouts:
            self.readouts = self._begun(len(inputs))
        self.predicted = list(own)
        for readout in self.readouts:
            features = [own[readout.outputs[0]], 1.0]
            if self.learning.readout == "rls":
                features = [*self.hidden, *(inputs if self.learning.inputs else ()), 1.0]
            for o, correction in zip(readout.outputs, readout.correct(features), strict=True):
                self.predicted[o] += correction

    def _begun(self, inputs: int) -> list[_Readout]:
        if self.learning.readout == "off":
            return []
        if self.learning.readout == "gain":
            return [_Readout([o], 2, self.learning) for o in self.outputs]
        size = self.artifact.hidden_size + inputs * self.learning.inputs + 1
        return [_Readout(list(self.outputs), size, self.learning)]


class _Readout:
    def __init__(self, outputs: list[int], size: int, learning: Learning) -> None:
        self.outputs, self.learning = outputs, learning
        self.weights = np.zeros((len(outputs), size))
        self.covariance = np.eye(size) / learning.prior
        self.row = 1 % size  # row 0 belongs to the first observation, for which there was no prediction

    def correct(self, features: list[float]) -> list[float]:
        self.features = np.array(features)
        return [float(weights @ self.features) for weights in self.weights]

    def learn(self, errors: list[float | None]) -> None:
        row, size, forgetting = self.row, len(self.features), self.learning.forgetting
        self.row = (row + 1) % size
        if all(error is None for error in errors):
            return
        gain = self.covariance @ self.features
        scale = forgetting + self.features @ gain
        for output, error in enumerate(errors):
            self.weights[output] += (error or 0.0) * gain / scale
        self.covariance = (self.covariance - np.outer(gain, gain) / scale) / forgetting
        pull = size * (1 - forgetting) * self.learning.prior
        column = self.covariance[:, row]
        scale = 1 + pull * column[row]
        for weights in self.weights:
            weights -= pull * weights[row] * column / scale
        self.covariance = self.covariance - pull * np.outer(column, column) / scale


class _Band:
    def __init__(self, level: float) -> None:
        self.level, self.seen, self.square = level, 0, 1.0
        self.ratio = NormalDist().inv_cdf((1 + level) / 2)

    @property
    def width(self) -> float:
        return max(self.ratio, 0.0) * (self.square**0.5 + float(SMALLEST_SCALE))

    def learn(self, error: float | None) -> None:
        if error is None:
            return
        missed = abs(error) > self.width
        self.ratio += RATE * (missed - (1 - self.level))
        self.seen += 1
        self.square += (error**2 - self.square) / min(self.seen + 1, SCALE_WINDOW)


def _sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-values))
