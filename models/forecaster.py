"""A trained artifact made ready to serve: scaling, network and the layout of what a session carries.

`advance` moves many sessions on by chunks of mixed lengths in one pass; `roll_out` feeds predictions
back in. Both take carries and return new ones: nothing is remembered here between calls.

A carry is one row of float32: `(h, c)` as [2, layers, hidden], then the last prediction, scaled, which
is the first value of any forecast, then what the session has learned (`models.learner`), then, for an
artifact with time features, the time of the last observation, then, where they are kept, the last `tail`
observations, newest last, which a newer network starts warm from. `new_carry` is a session that has observed
nothing: zeros, but for what it learns with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import PackedSequence

from models.adaptation.intervals import growth
from models.adaptation.learner import ErrorStatistics, Learner, Scores
from models.arrays import Floats, Ints
from models.artifact.artifact import Artifact
from models.artifact.learning import Learning
from models.nets.cells import LSTMCells

# Chunks up to this long go through `LSTMCells`, longer ones through `torch.nn.LSTM`: the two cost the same
# between 30 and 50 steps (benchmarks/kernels.py).
SHORT_CHUNK = 24
KIND_SEPARATOR = "+"  # between an artifact's fingerprint and a kind of learning
CLOCK = 3  # numbers of a time: 1 and the part of a second (0: unknown), days since 1970, seconds of the day


class CannotForecast(ValueError):
    """The targets do not cover the inputs, so a prediction cannot be fed back."""

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__(
            f"the model does not predict its input {', '.join(missing)}; a forecast needs them all"
        )
        self.missing = missing


@dataclass(frozen=True, slots=True)
class StepResult:
    """A pass over the chunks of a batch; see `Forecaster.observe`."""

    predictions: Floats
    carries: Floats
    scores: Scores | None

    def pick(self, observations: Any, sessions: Any) -> StepResult:
        """Of some observations, and of the sessions that they are of, each an index of NumPy's."""
        judged = None if self.scores is None else self.scores.pick(observations)
        return StepResult(self.predictions[observations], self.carries[sessions], judged)


class Forecaster:
    """One artifact, loaded.

    Parameters
    ----------
    artifact : Artifact
    device : "cpu" or "cuda"; on "cpu" short chunks are stepped by NumPy
    tail : observations that each carry keeps
    learning : what its sessions learn, where that is not what the artifact says
    """

    def __init__(
        self, artifact: Artifact, device: str = "cpu", tail: int = 0, learning: Learning | None = None
    ) -> None:
        self.artifact = artifact
        self.learning = artifact.learning if learning is None else learning
        self.learner = Learner(artifact, self.learning) if self.learning.enabled else None
        self.device = torch.device(device)
        network = artifact.network().eval()
        self.change_of = list(network.change_of) if network.change_of is not None else None
        self.cells = LSTMCells(network) if self.device.type == "cpu" else None
        self.network = network.to(self.device)
        self.input_size = artifact.input_size
        self.output_size = artifact.output_size
        self.layers, self.hidden = artifact.num_layers, artifact.hidden_size
        self.tail = tail
        self._state = 2 * self.layers * self.hidden
        self._predicted = self._state + self.output_size
        self._learned = self._predicted + (self.learner.size if self.learner else 0)
        self._untailed = self._learned + CLOCK * bool(artifact.time_features)
        self.carry_size = self._untailed + tail * self.input_size
        names = [column.name for column in artifact.inputs]
        known = (*artifact.future, *names[len(names) - artifact.time_input_count :])
        self.future_inputs = [names.index(name) for name in names if name in known]
        self.missing = tuple(name for name in names if name not in artifact.targets and name not in known)
        self._into = [i for i, output in enumerate(artifact.feedback) if output is not None]
        self.fed_back = [output for output in artifact.feedback if output is not None]
        self._in_mean, self._in_std = _pair(artifact.scaling.mean, artifact.scaling.std)
        self._out_mean, self._out_std = _pair(artifact.target_scaling.mean, artifact.target_scaling.std)

    def advance(self, observations: Floats, lengths: Ints, carries: Floats) -> tuple[Floats, Floats]:
        """Move every session on by its chunk.

        Parameters
        ----------
        observations : [total, inputs], the data's own units; the chunks laid one after the other
        lengths : [batch], observations in each chunk, each at least 1, `total` together
        carries : [batch, carry_size]; not written to

        Returns
        -------
        predictions : [total, outputs], of what follows each observation, in the data's own units
        carries : [batch, carry_size], a new array
        """
        if self.learner is not None:
            passed = self.observe(observations, lengths, carries)
            return passed.predictions, passed.carries
        scaled = np.asarray((observations - self._in_mean) / self._in_std, np.float32)
        most = longest_chunk(lengths, observations)
        if self.cells is not None and most <= SHORT_CHUNK:
            outputs, moved = self._by_cells(self.cells, scaled, lengths, most, carries)
        else:
            outputs, moved = self._by_network(scaled, lengths, most, carries)
        moved[:, self._state : self._predicted] = outputs if most == 1 else outputs[lengths.cumsum() - 1]
        if self.tail:
            self._keep_tails(observations, lengths, carries, moved)
        return self._unscaled(outputs), moved

    def observe(self, observations: Floats, lengths: Ints, carries: Floats) -> StepResult:
        """Move every session on by its chunk, step by step: each observation meets its prediction.

        A number that is NaN was not observed: the session's own prediction stands in for it, and neither
        an error nor an interval is moved by it.

        Parameters
        ----------
        observations, lengths, carries : as in `advance`; NaN only where a target is the input

        Returns
        -------
        predictions, carries : as of `advance`
        judged : laid out as the observations, own units; None when the sessions learn nothing
        """
        scaled = np.asarray((observations - self._in_mean) / self._in_std, np.float32)
        order = np.argsort(-lengths, kind="stable")
        rows = carries[order]
        outputs, judged = self._step_by_step(scaled, lengths, order, rows)
        moved = np.empty_like(rows)
        moved[order] = rows
        if self.tail:
            whole = np.where(np.isnan(observations), scaled * self._in_std + self._in_mean, observations)
            self._keep_tails(whole, lengths, carries, moved)
        return StepResult(self._unscaled(outputs), moved, judged)

    def _step_by_step(
        self, scaled: Floats, lengths: Ints, order: Ints, rows: Floats
    ) -> tuple[Floats, Scores | None]:
        """Move `rows` on in place, the longest chunk first; what was missing in `scaled` is filled in."""
        total, learner = len(scaled), self.learner
        hidden, cell = self._split(rows)
        latest, learned = rows[:, self._state : self._predicted], rows[:, self._predicted : self._learned]
        outputs = np.empty((total, self.output_size), np.float32)
        judged = None if learner is None else Scores.empty(total, self.output_size, len(learner.levels))
        for at in _time_major(lengths, order, int(lengths.max())):
            now = len(at)
            inputs = scaled[at]
            if learner is not None and judged is not None:
                learner.learn(learned[:now], latest[:now], inputs[:, learner.target_columns], judged, at)
            gaps = np.isnan(inputs)
            if gaps.any():
                standing_in = np.where(
                    gaps[:, self._into], latest[:now, self.fed_back], inputs[:, self._into]
                )
                inputs[:, self._into] = standing_in
                scaled[at] = inputs
            predicted = self._predict(rows[:now], inputs, hidden[:now], cell[:now], learned[:now])
            latest[:now] = outputs[at] = predicted
            if learner is not None and judged is not None:
                judged.widths[at] = learner.widths(learned[:now])
        return outputs, None if judged is None else judged.rescale(self._out_std)

    def _predict(self, rows: Floats, inputs: Floats, hidden: Floats, cell: Floats, learned: Floats) -> Floats:
        """Step the network once, in place, and correct what it says; everything is of the same sessions."""
        if self.cells is not None:
            outputs = self.cells.step(inputs, rows)
        else:
            outputs, moved = self._through(inputs[:, None], hidden, cell)
            outputs = outputs[:, 0]
            rows[:, : self._state] = moved[:, : self._state]
        outputs = self._levels(outputs, inputs)
        return (
            outputs if self.learner is None else self.learner.predict(learned, hidden[:, -1], inputs, outputs)
        )

    def roll_out(self, carries: Floats, steps: int, ahead: Floats | None = None) -> tuple[Floats, Floats]:
        """Feed predictions back in, free running.

        Parameters
        ----------
        carries : [batch, carry_size] of sessions that have observed something; not written to
        steps : how many predictions, at least 1
        ahead : [batch, steps, inputs known ahead], in the order of `self.future_inputs` and in own
            units: their values when each prediction is due; needed where there are any

        Returns
        -------
        forecast : [batch, steps, outputs], the data's own units; the first is the last prediction
        carries : [batch, carry_size]; rolling these out again goes on where this one stopped

        Raises
        ------
        CannotForecast : when the targets and what is known ahead do not cover the inputs
        """
        if self.missing or (self.future_inputs and ahead is None):
            raise CannotForecast(self.missing or tuple(self.artifact.columns[i] for i in self.future_inputs))
        forecast = np.empty((len(carries), steps, self.output_size), np.float32)
        carries = carries.copy()
        hidden, cell = self._split(carries)
        latest, learned = (
            carries[:, self._state : self._predicted],
            carries[:, self._predicted : self._learned],
        )
        inputs = np.empty((len(carries), self.input_size), np.float32)
        for step in range(steps):
            forecast[:, step] = latest
            inputs[:, self._into] = latest[:, self.fed_back]
            if ahead is not None:
                inputs[:, self.future_inputs] = (
                    ahead[:, step] - self._in_mean[self.future_inputs]
                ) / self._in_std[self.future_inputs]
            latest[:] = self._predict(carries, inputs, hidden, cell, learned)
        return self._unscaled(forecast), carries

    @property
    def new_carry(self) -> Floats:
        """[carry_size], a session that has observed nothing."""
        return self.initial_state(self.learning)

    def initial_state(self, learning: Learning) -> Floats:
        """[carry_size], a session that has observed nothing and chose this way to learn, of this layout."""
        carry = np.zeros(self.carry_size, np.float32)
        if self.learner is not None:
            carry[self._predicted : self._learned] = self.learner.initial_state(learning)
        return carry

    def reset(self, carries: Floats) -> Floats:
        """[batch, carry_size], the same sessions when all that they observed is forgotten."""
        again = np.zeros_like(carries)
        if self.learner is not None:
            learned = slice(self._predicted, self._learned)
            again[:, learned] = self.learner.reset(carries[:, learned])
        return again

    def initial_carries_from(self, older: Forecaster, carries: Floats) -> Floats:
        """[batch, carry_size], sessions of an older network, [batch, older.carry_size], that begin anew on
        this one: what each chose of how it learns stays, and its clock."""
        begun = np.repeat(self.new_carry[None], len(carries), axis=0)
        for carry, before in zip(begun, carries, strict=True):
            if self.learner is not None and older.learner is not None:
                chose = older.learning_of(before)
                carry[:] = self.initial_state(
                    self.learning.with_options(forgetting=chose.forgetting, prior=chose.prior)
                )
                level = older.level(before[None])
                self.level(carry[None])[:] = np.where(
                    np.isin(level, np.array(self.learning.levels, np.float32)), level, 0
                )
            seconds = older.clock(before)
            if seconds is not None and self.artifact.time_features:
                self.set_clock(carry, seconds)
        return begun

    def last_predictions(self, carries: Floats) -> Floats:
        """The last prediction that each carry holds: [batch, outputs], the data's own units."""
        return self._unscaled(carries[:, self._state : self._predicted])

    def forecast_widths(self, carries: Floats, steps: int) -> Floats:
        """[batch, steps, levels, outputs], half-widths of the intervals of forecasts, own units."""
        learner = self._learner()
        widths = learner.widths(carries[:, self._predicted : self._learned]) * self._out_std
        return np.asarray(widths[:, None] * growth(self.learning, steps)[:, None, None])

    def errors(self, carries: Floats) -> ErrorStatistics:
        """How wrong each session has been, in own units: [batch, outputs]."""
        told = self._learner().errors(carries[:, self._predicted : self._learned])
        return told.rescale(self._out_std)

    @property
    def fingerprint(self) -> str:
        """The artifact's, and the kind of learning where that is another: what a carry belongs to."""
        kind = self.learning.kind
        return self.artifact.fingerprint + (
            f"{KIND_SEPARATOR}{kind}" if kind != self.artifact.learning.kind else ""
        )

    def with_kind(self, kind: str) -> Forecaster:
        """The same artifact for sessions that learn otherwise.

        Raises
        ------
        BadArtifact : they cannot
        """
        return Forecaster(self.artifact, self.device.type, self.tail, self.artifact.learning.with_kind(kind))

    def level(self, carries: Floats) -> Floats:
        """[batch], a view: the level of the intervals that each session wants with every chunk; 0 is none."""
        return np.asarray(self._learner().level(carries[:, self._predicted : self._learned]))

    def clock(self, carry: Floats) -> float | None:
        """When the session of this carry observed last, in seconds since 1970, if it has told."""
        known, days, seconds = carry[self._learned : self._untailed].tolist() or (0, 0, 0)
        return days * 86_400.0 + seconds + (known - 1) if known else None

    def set_clock(self, carry: Floats, seconds: float) -> None:
        """The session of this carry observed last at this time, in seconds since 1970."""
        days, rest = divmod(seconds, 86_400.0)
        carry[self._learned : self._untailed] = 1 + rest % 1, days, rest // 1

    def learning_of(self, carry: Floats) -> Learning:
        """How the session of this carry, [carry_size], learns."""
        if self.learner is None:
            return self.learning
        return self.learner.options(carry[self._predicted : self._learned])

    def tails(self, carries: Floats) -> Floats:
        """The observations that each carry keeps: [batch, tail, inputs], newest last, own units."""
        return carries[:, self._untailed :].reshape(len(carries), self.tail, self.input_size)

    def resize_tail(self, carry: Floats) -> Floats:
        """A carry that was written with another `tail`, for this one; as many observations as both can hold.

        Raises
        ------
        ValueError : it belongs to another network
        """
        spare = carry.size - self._untailed
        if carry.ndim != 1 or spare < 0 or spare % self.input_size:
            raise ValueError(f"a carry of {carry.size} numbers is none of this network's {self._untailed}")
        if carry.size == self.carry_size:
            return carry
        fitted = np.zeros(self.carry_size, np.float32)
        fitted[: self._untailed] = carry[: self._untailed]
        kept = min(spare, self.carry_size - self._untailed)
        if kept:
            fitted[-kept:] = carry[-kept:]
        return fitted

    def check(self, carry: Floats) -> None:
        """Refuse a carry, [carry_size], in which no session could be, however it learns.

        Raises
        ------
        ValueError
        """
        if self.learner is not None:
            self.learner.check(carry[self._predicted : self._learned])

    def _learner(self) -> Learner:
        if self.learner is None:
            raise LookupError(f"the sessions of {self.artifact.name!r} learn nothing")
        return self.learner

    def _keep_tails(self, observations: Floats, lengths: Ints, carries: Floats, moved: Floats) -> None:
        """Each tail, moved on by its chunk."""
        before, after = self.tails(carries), self.tails(moved)
        stop = 0
        for i, length in enumerate(lengths.tolist()):
            stop += length
            new = min(length, self.tail)
            after[i, : self.tail - new] = before[i, new:]
            after[i, self.tail - new :] = observations[stop - new : stop]

    def _by_cells(
        self, cells: LSTMCells, scaled: Floats, lengths: Ints, longest_chunk: int, carries: Floats
    ) -> tuple[Floats, Floats]:
        batch = len(lengths)
        if longest_chunk * batch == len(scaled):  # as long as each other, as most waves are: nothing to sort
            if longest_chunk == 1:
                moved = np.empty_like(carries)
                moved[:, self._predicted :] = carries[:, self._predicted :]
                return self._levels(cells.step(scaled, carries, moved), scaled), moved
            moved = carries.copy()
            chunks = scaled.reshape(batch, longest_chunk, -1)
            outputs = np.empty((batch, longest_chunk, self.output_size), np.float32)
            for step in range(longest_chunk):
                outputs[:, step] = cells.step(chunks[:, step], moved)
            return self._levels(outputs.reshape(len(scaled), -1), scaled), moved
        order = np.argsort(-lengths, kind="stable")
        moved = carries[order]
        outputs = np.empty((len(scaled), self.output_size), np.float32)
        for at in _time_major(lengths, order, longest_chunk):
            outputs[at] = cells.step(scaled[at], moved[: len(at)])
        back = np.empty_like(moved)
        back[order] = moved
        return self._levels(outputs, scaled), back

    def _by_network(
        self, scaled: Floats, lengths: Ints, longest_chunk: int, carries: Floats
    ) -> tuple[Floats, Floats]:
        """The same with `torch.nn.LSTM`, mixed lengths packed: never a padded row near the carry."""
        batch = len(lengths)
        hidden, cell = self._split(carries)
        if longest_chunk * batch == len(scaled):
            flat, moved = self._through(scaled.reshape(batch, longest_chunk, -1), hidden, cell)
            return self._levels(flat.reshape(len(scaled), -1), scaled), moved
        order = np.argsort(-lengths, kind="stable")
        steps = list(_time_major(lengths, order, longest_chunk))
        at = np.concatenate(steps)
        sizes = torch.tensor([len(step) for step in steps])
        flat, sorted_ = self._through(scaled[at], hidden[order], cell[order], sizes)
        outputs, moved = np.empty_like(flat), np.empty_like(sorted_)
        outputs[at], moved[order] = flat, sorted_
        return self._levels(outputs, scaled), moved

    def _through(
        self, observations: Floats, hidden: Floats, cell: Floats, sizes: torch.Tensor | None = None
    ) -> tuple[Floats, Floats]:
        """Run the network.

        Parameters
        ----------
        observations : [batch, steps, inputs], or [total, inputs] packed by `sizes`, the batch at each step
        hidden, cell : [batch, layers, hidden]

        Returns
        -------
        outputs : laid out as the observations
        carries : [batch, carry_size]; the last prediction is not filled in
        """
        with torch.inference_mode():
            given = torch.from_numpy(observations).to(self.device)
            state = (self._layers_first(hidden), self._layers_first(cell))
            features, (h, c) = self.network.lstm(
                given if sizes is None else PackedSequence(given, sizes), state
            )
            outputs = self.network.fc(features if sizes is None else features.data)
            both = torch.stack([h, c]).permute(2, 0, 1, 3).flatten(1)  # [batch, 2 layers hidden]
            moved = np.empty((len(hidden), self.carry_size), np.float32)
            moved[:, : self._state] = both.cpu().numpy()
            return outputs.cpu().numpy(), moved

    def _split(self, carries: Floats) -> tuple[Floats, Floats]:
        """Views of `(h, c)` in packed rows, each [batch, layers, hidden]."""
        both = carries[:, : self._state].reshape(-1, 2, self.layers, self.hidden)
        return both[:, 0], both[:, 1]

    def _layers_first(self, rows: Floats) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows.transpose(1, 0, 2))).to(self.device)

    def _levels(self, outputs: Floats, scaled: Floats) -> Floats:
        return outputs if self.change_of is None else outputs + scaled[:, self.change_of]

    def _unscaled(self, outputs: Floats) -> Floats:
        return outputs * self._out_std + self._out_mean


def longest_chunk(lengths: Ints, observations: Floats) -> int:
    """Observations of the longest chunk; told without a look at them where there is one each."""
    return 1 if len(observations) == len(lengths) else int(lengths.max())


def _time_major(lengths: Ints, order: Ints, longest_chunk: int) -> Iterator[Ints]:
    """For each step, where the packed observations of the chunks that are that long lie, longest first."""
    starts = (np.cumsum(lengths) - lengths)[order]
    descending = -lengths[order]
    for step in range(longest_chunk):
        yield starts[: np.searchsorted(descending, -step, side="left")] + step


def _pair(mean: npt.ArrayLike, std: npt.ArrayLike) -> tuple[Floats, Floats]:
    return np.asarray(mean, np.float32), np.asarray(std, np.float32)
