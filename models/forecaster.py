"""A trained artifact ready to serve: scaling, network, and what a session carries.

`advance` moves many sessions on by chunks of mixed lengths in one pass; `roll_out` feeds predictions back in.
Both take carries and return new ones: nothing is remembered here between calls.

advance     scale -> the net -> unscale                                   (models/net.py)
observe     the same step by step: each observation is first compared with its prediction, and the session
            learns from the error                                         (models/adaptation/stepper.py)
roll_out    the last prediction -> input -> next prediction -> ...
carry       one row of float32 a session                                  (models/carry.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.adaptation.intervals import growth
from models.adaptation.learner import ErrorStatistics, Learner, Scores
from models.adaptation.stepper import Stepper
from models.arrays import Doubles, Floats, Ints
from models.artifact.artifact import Artifact
from models.artifact.learning import Learning
from models.carry import CarryLayout
from models.net import Net
from models.nets.chunks import longest_chunk
from models.nets.native import NativeNet

__all__ = ["KIND_SEPARATOR", "CannotForecast", "Forecaster", "StepResult", "longest_chunk"]

KIND_SEPARATOR = "+"  # between an artifact's fingerprint and a kind of learning


class CannotForecast(ValueError):
    """A prediction cannot be fed back: the targets do not cover the inputs.

    Attributes
    ----------
    missing
        Names of the inputs that are neither predicted nor known ahead.
    """

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__(
            f"the model does not predict its input {', '.join(missing)}; a forecast needs all inputs"
        )
        self.missing = missing


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a pass over the chunks of a batch gives; see `Forecaster.observe`.

    predictions : [total, outputs], the data's own units
    carries : [batch, carry_size]
    scores : None when the sessions learn nothing
    """

    predictions: Floats
    carries: Floats
    scores: Scores | None

    def pick(self, observations: Any, sessions: Any) -> StepResult:
        """The result for these observations and the sessions that they belong to, each a NumPy index."""
        scores = None if self.scores is None else self.scores.pick(observations)
        return StepResult(self.predictions[observations], self.carries[sessions], scores)


class Forecaster:
    """One artifact, loaded.

    Parameters
    ----------
    artifact : Artifact
    device : "cpu" or "cuda"; on "cpu" chunks are stepped by NumPy and numba
    tail : observations that each carry keeps
    learning : what the sessions learn; without it, what the artifact says

    Attributes
    ----------
    layout : where each part of a carry lies
    learner : None when the sessions learn nothing
    future_inputs : columns of the inputs that are known ahead, time features among them
    missing : names of the inputs that are neither predicted nor known ahead; with any, `roll_out` refuses
    """

    def __init__(
        self, artifact: Artifact, device: str = "cpu", tail: int = 0, learning: Learning | None = None
    ) -> None:
        self.artifact = artifact
        self.learning = artifact.learning if learning is None else learning
        self.learner = Learner(artifact, self.learning) if self.learning.enabled else None
        self.device = device
        self.net: Net = NativeNet(artifact.network().eval(), device)
        self.input_size, self.output_size = self.net.input_size, self.net.output_size
        self.tail = tail
        self.layout = CarryLayout(
            state=self.net.state_size,
            inputs=self.input_size,
            outputs=self.output_size,
            learned=self.learner.size if self.learner else 0,
            has_clock=bool(artifact.time_features),
            tail=tail,
        )
        self.carry_size = self.layout.size
        names = artifact.columns
        known = (*artifact.future, *names[len(names) - artifact.time_input_count :])
        self.future_inputs = [names.index(name) for name in names if name in known]
        self.missing = tuple(name for name in names if name not in artifact.targets and name not in known)
        self._stepper = Stepper(self.net, self.layout, self.learner, artifact.feedback)
        self._in_mean, self._in_std = _single(artifact.scaling.mean), _single(artifact.scaling.std)
        self._out_mean = _single(artifact.target_scaling.mean)
        self._out_std = _single(artifact.target_scaling.std)

    # --- moving sessions on

    def advance(self, observations: Floats, lengths: Ints, carries: Floats) -> tuple[Floats, Floats]:
        """Move every session on by its chunk.

        Parameters
        ----------
        observations : [total, inputs], the data's own units; the chunks one after the other
        lengths : [batch], observations in each chunk, each at least 1, `total` together
        carries : [batch, carry_size]; not written to

        Returns
        -------
        predictions : [total, outputs], of what follows each observation, in the data's own units
        carries : [batch, carry_size], a new array
        """
        if self.learner is not None:
            result = self.observe(observations, lengths, carries)
            return result.predictions, result.carries
        scaled = self._scaled(observations)
        outputs, moved = self.net.advance(scaled, lengths, carries)
        last = outputs if len(outputs) == len(lengths) else outputs[lengths.cumsum() - 1]
        moved[:, self.layout.prediction] = last
        if self.tail:
            self.layout.append_to_tails(observations, lengths, carries, moved)
        return self._unscaled(outputs), moved

    def observe(self, observations: Floats, lengths: Ints, carries: Floats) -> StepResult:
        """Move every session on by its chunk, step by step, learning from the error of each prediction.

        A NaN was not observed: the session's own prediction stands in for it, and no running mean, interval
        or readout moves.

        Parameters
        ----------
        observations, lengths, carries : as in `advance`; NaN only where a target is the input

        Returns
        -------
        StepResult
            Its scores are laid out as the observations, in the data's own units.
        """
        scaled = self._scaled(observations)
        order = np.argsort(-lengths, kind="stable")
        rows = carries[order]
        outputs, scores = self._stepper.advance(scaled, lengths, order, rows)
        moved = np.empty_like(rows)
        moved[order] = rows
        if self.tail:
            filled = np.where(np.isnan(observations), scaled * self._in_std + self._in_mean, observations)
            self.layout.append_to_tails(filled, lengths, carries, moved)
        return StepResult(
            self._unscaled(outputs), moved, None if scores is None else scores.rescale(self._out_std)
        )

    def roll_out(self, carries: Floats, steps: int, ahead: Floats | None = None) -> tuple[Floats, Floats]:
        """Feed predictions back in, free running.

        Parameters
        ----------
        carries : [batch, carry_size] of sessions that have observed something; not written to
        steps : how many predictions, at least 1
        ahead : [batch, steps, inputs known ahead], in the order of `future_inputs` and in the data's own
            units: their values when each prediction is due; needed where there are any

        Returns
        -------
        forecast : [batch, steps, outputs], the data's own units; the first is the last prediction
        carries : [batch, carry_size]; rolling these out again continues where this forecast stopped

        Raises
        ------
        CannotForecast : the targets and what is known ahead do not cover the inputs
        """
        if self.missing or (self.future_inputs and ahead is None):
            raise CannotForecast(self.missing or tuple(self.artifact.columns[i] for i in self.future_inputs))
        forecast = np.empty((len(carries), steps, self.output_size), np.float32)
        carries = carries.copy()
        latest = carries[:, self.layout.prediction]
        inputs = np.empty((len(carries), self.input_size), np.float32)
        for step in range(steps):
            forecast[:, step] = latest
            self._stepper.feed_back(inputs, latest)
            if ahead is not None:
                inputs[:, self.future_inputs] = (
                    ahead[:, step] - self._in_mean[self.future_inputs]
                ) / self._in_std[self.future_inputs]
            latest[:] = self._stepper.predict(carries, inputs)
        return self._unscaled(forecast), carries

    # --- the life of a carry

    @property
    def new_carry(self) -> Floats:
        """[carry_size], a session that has observed nothing."""
        return self.initial_state(self.learning)

    def initial_state(self, learning: Learning) -> Floats:
        """[carry_size], a session that has observed nothing and learns like this, which is of this layout."""
        carry = np.zeros(self.carry_size, np.float32)
        if self.learner is not None:
            carry[self.layout.learned] = self.learner.initial_state(learning)
        return carry

    def reset(self, carries: Floats) -> Floats:
        """[batch, carry_size], the same sessions with all that they observed forgotten."""
        cleared = np.zeros_like(carries)
        if self.learner is not None:
            cleared[:, self.layout.learned] = self.learner.reset(carries[:, self.layout.learned])
        return cleared

    def initial_carries_from(self, older: Forecaster, carries: Floats) -> Floats:
        """New carries for sessions of an older network.

        Each session keeps how it chose to learn, and its clock.

        Parameters
        ----------
        older : the network that the sessions had
        carries : [batch, older.carry_size]

        Returns
        -------
        [batch, carry_size]
        """
        started = np.repeat(self.new_carry[None], len(carries), axis=0)
        for carry, before in zip(started, carries, strict=True):
            if self.learner is not None and older.learner is not None:
                learning = older.learning_of(before)
                carry[:] = self.initial_state(
                    self.learning.with_options(forgetting=learning.forgetting, prior=learning.prior)
                )
                level = older.level(before[None])
                self.level(carry[None])[:] = np.where(np.isin(level, _single(self.learning.levels)), level, 0)
            seconds = older.layout.clock(before)
            if seconds is not None and self.artifact.time_features:
                self.layout.set_clock(carry, seconds)
        return started

    def check(self, carry: Floats) -> None:
        """Refuse a carry, [carry_size], that no session can have.

        Raises
        ------
        ValueError
        """
        if self.learner is not None:
            self.learner.check(carry[self.layout.learned])

    # --- what a carry says

    def last_predictions(self, carries: Floats) -> Floats:
        """The last prediction that each carry holds: [batch, outputs], the data's own units."""
        return self._unscaled(carries[:, self.layout.prediction])

    def forecast_widths(self, carries: Floats, steps: int) -> Floats:
        """Half-widths of the intervals of forecasts, [batch, steps, levels, outputs], own units."""
        learner = self._learner()
        widths = learner.widths(carries[:, self.layout.learned]) * self._out_std
        return np.asarray(widths[:, None] * growth(self.learning, steps)[:, None, None])

    def errors(self, carries: Floats) -> ErrorStatistics:
        """How wrong each session has been, [batch, ...], in the data's own units."""
        return self._learner().errors(carries[:, self.layout.learned]).rescale(self._out_std)

    def level(self, carries: Floats) -> Floats:
        """[batch], a view: the level of the intervals that each session wants with every chunk; 0: none."""
        return np.asarray(self._learner().level(carries[:, self.layout.learned]))

    def learning_of(self, carry: Floats) -> Learning:
        """How the session of this carry, [carry_size], learns."""
        return self.learning if self.learner is None else self.learner.options(carry[self.layout.learned])

    @property
    def fingerprint(self) -> str:
        """What a carry belongs to: the artifact's fingerprint, and the kind of learning where it differs."""
        kind = self.learning.kind
        suffix = f"{KIND_SEPARATOR}{kind}" if kind != self.artifact.learning.kind else ""
        return self.artifact.fingerprint + suffix

    def with_kind(self, kind: str) -> Forecaster:
        """The same artifact for sessions with another kind of learning (`Learning.kind`).

        Raises
        ------
        BadArtifact : the artifact cannot learn like that
        """
        return Forecaster(self.artifact, self.device, self.tail, self.artifact.learning.with_kind(kind))

    def _learner(self) -> Learner:
        if self.learner is None:
            raise LookupError(f"the sessions of {self.artifact.name!r} learn nothing")
        return self.learner

    def _scaled(self, observations: Floats) -> Floats:
        return np.asarray((observations - self._in_mean) / self._in_std, np.float32)

    def _unscaled(self, outputs: Floats) -> Floats:
        return outputs * self._out_std + self._out_mean


def _single(values: Doubles | tuple[float, ...]) -> Floats:
    return np.asarray(values, np.float32)
