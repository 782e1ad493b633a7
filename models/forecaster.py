"""A trained artifact ready to serve: scaling, network, and what a session carries.

`advance` moves many sessions on by chunks of mixed lengths in one pass; `roll_out` feeds predictions back in.
Both take carries and return new ones: nothing is remembered here between calls.

advance     scale -> the net -> unscale                                   (models/net.py)
observe     the same step by step: each observation is first compared with its prediction, and the session
            learns from the error                                         (models/adaptation/stepper.py)
roll_out    the last prediction -> input -> next prediction -> ...; or, where the artifact has horizons, what
            the session has learned of each                               (models/adaptation/horizons.py)
write_text  the logits -> a token that is drawn -> input -> logits -> ...  (models/generation/sampling.py)
carry       one row of words a session                                    (models/carry.py)
scale       one for all sessions; of a network of many series each session has its own, in its carry
                                                                          (models/adaptation/scales.py)

A graph takes and gives numbers as they are: nothing is scaled. Observations and predictions are float32, or
float64 (`models/nets/numbers.py`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from models.adaptation.alarms import Alarms
from models.adaptation.learner import ErrorStatistics, Learner, Scores
from models.adaptation.scales import SessionScales
from models.adaptation.stepper import Stepper
from models.arrays import AnyArray, Bools, Doubles, Floats, Ints, Numbers
from models.artifact.artifact import Artifact
from models.artifact.learning import Learning
from models.artifact.served import ServedArtifact
from models.carry import CarryLayout
from models.data.scaling import Scaling
from models.errors import BadArtifact
from models.generation.sampling import TokenSampler
from models.generation.stopping import StopWatch
from models.net import Execution
from models.nets.chunks import longest_chunk
from models.nets.numbers import InputRules
from models.nets.samples import COVERS, EVENTS, SampleNet, WrongRate
from models.nets.watchdog import RunTooLongError

__all__ = [
    "ALIAS_SEPARATOR",
    "COVERS",
    "EVENTS",
    "KIND_SEPARATOR",
    "CannotForecast",
    "Forecaster",
    "RunTooLongError",
    "SampleNet",
    "StepResult",
    "WrongRate",
    "longest_chunk",
]

HERE = Execution()
HUGE_DEVIATION = 1e9  # in standard deviations; the square of a larger error may overflow float32
MAX_SHORT_ANSWER = 64  # numbers; the answer of a wider model does not fit a session's header
KIND_SEPARATOR = "+"  # between an artifact's fingerprint and a kind of learning
ALIAS_SEPARATOR = "@"  # before the name of a model whose network another model has, too


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

    predictions: Numbers
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
    artifact : Artifact or GraphArtifact
    execution : where its network runs
    tail : observations that each carry keeps
    learning : what the sessions learn; without it, what the artifact says

    Raises
    ------
    BadArtifact : the network cannot run here, or its sessions cannot learn like that

    Attributes
    ----------
    net : the network
    input_size, output_size : numbers in an observation and in a prediction
    input_type, output_type : their types, float32 or float64
    layout : where each part of a carry lies
    short_answer_size : numbers of an answer that a session's header holds; 0 where it cannot hold them
    learner : None when the sessions learn nothing
    samples : the network, where its observations are single samples; else None
    frame : observations that one step of the network takes: 1, or the samples of a frame
    scales : of the sessions, where each has its own; None where all have one
    alarms : the detectors of the sessions; None when they keep no errors
    future_inputs : columns of the inputs that are known ahead, time features among them
    missing : names of the inputs that are neither predicted nor known ahead; with any, `roll_out` refuses
    is_alias : whether a model of another name has the same network, and its fingerprint without a name
    """

    def __init__(
        self,
        artifact: ServedArtifact,
        execution: Execution = HERE,
        tail: int = 0,
        learning: Learning | None = None,
    ) -> None:
        self.artifact = artifact
        self.is_alias = False
        self.learning = artifact.learning if learning is None else learning
        self.learner = _learner_of(artifact, self.learning)
        self.execution = execution
        self.net = artifact.net(execution)
        self.input_size, self.output_size = self.net.input_size, self.net.output_size
        self.input_type, self.output_type = self.net.input_type, self.net.output_type
        self.tail = tail
        fleet = artifact.fleet
        self.layout = CarryLayout(
            self.net,
            learned=self.learner.size if self.learner else 0,
            has_clock=bool(artifact.time_features),
            tail=tail,
            scaled_by=fleet.stages[-1] if fleet else 0,
        )
        self.scales = None
        if fleet is not None and isinstance(artifact, Artifact):
            self.scales = SessionScales(artifact, fleet, self.layout)
        self.carry_size = self.layout.size
        self.samples = self.net if isinstance(self.net, SampleNet) else None
        self.frame = 1 if self.samples is None else self.samples.frame
        # A chunk of samples has as many outputs as it completes frames, and what they cover beside them.
        fits = (
            self.output_size <= MAX_SHORT_ANSWER and self.output_type == np.float32 and self.samples is None
        )
        self.short_answer_size = self.output_size if fits else 0
        self._direct = self.learning.forecasts_directly
        self.missing = () if self._direct else artifact.missing
        known = {*artifact.future, *artifact.columns[self.input_size - artifact.time_input_count :]}
        if self._direct:
            known = set()
        self.future_inputs = [i for i, name in enumerate(artifact.columns) if name in known] if known else []
        self._stepper = Stepper(self.net, self.layout, self.learner, artifact.predicted_by)
        self._rules = InputRules(artifact.input_ports)
        self._inputs = _Scale.of(artifact.scaling)
        self._outputs = _Scale.of(artifact.target_scaling)
        self.alarms: Alarms | None = None
        if self.learning.tracks_errors and self.learner is not None:
            self.alarms = Alarms(self.output_size, self.learning.levels)
        self._scaled, self._unscaled = self._inputs.scaled, self._outputs.unscaled
        self._output_columns = [artifact.columns.index(name) for name in artifact.targets] if fleet else []
        self._words_are_numbers = self.output_type == np.float32

    # --- moving sessions on

    def advance(self, observations: Numbers, lengths: Ints, carries: Floats) -> tuple[Numbers, Floats]:
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
        if self.learner is not None or self.scales is not None:
            result = self.observe(observations, lengths, carries)
            return result.predictions, result.carries
        outputs, moved = self.net.advance(self._scaled(observations), lengths, carries)
        last = outputs if len(outputs) == len(lengths) else outputs[lengths.cumsum() - 1]
        moved[:, self.layout.prediction] = last if self._words_are_numbers else last.view(np.float32)
        if self.tail:
            self.layout.append_to_tails(observations, lengths, carries, moved)
        return self._unscaled(outputs), moved

    def observe(self, observations: Numbers, lengths: Ints, carries: Floats) -> StepResult:
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
        if self.scales is not None:
            return self._observe_scaling(self.scales, observations, lengths, carries)
        return self._observe(observations, lengths, carries, self._inputs, self._outputs)

    def _observe(
        self, observations: Numbers, lengths: Ints, carries: Floats, inputs: _Scale, outputs: _Scale
    ) -> StepResult:
        """Observe, with these scales: over columns, or over [total, columns]."""
        scaled = inputs.scaled(observations)
        if scaled is observations:
            scaled = observations.copy()  # gaps are filled in, in place
        order = np.argsort(-lengths, kind="stable")
        rows = carries[order]
        predicted, scores = self._stepper.advance(scaled, lengths, order, rows)
        moved = np.empty_like(rows)
        moved[order] = rows
        if self.tail:
            filled = np.where(np.isnan(observations), inputs.unscaled(scaled), observations)
            self.layout.append_to_tails(filled, lengths, carries, moved)
        return StepResult(
            outputs.unscaled(predicted),
            moved,
            None if scores is None else scores.rescale(outputs.std),
        )

    def _observe_scaling(
        self, scales: SessionScales, observations: Numbers, lengths: Ints, carries: Floats
    ) -> StepResult:
        """Observe, each session with its own scale; a chunk is cut where its session takes another one."""
        left = scales.until_next(carries)
        if (lengths < left).all():
            return self._observe_own(scales, observations, lengths, carries)
        starts = lengths.cumsum() - lengths
        predictions = np.empty((len(observations), self.output_size), self.output_type)
        learner, carries = self.learner, carries.copy()
        scores = None
        if learner is not None:
            scores = Scores.empty(len(observations), self.output_size, len(learner.levels))
        done = np.zeros_like(lengths)
        while len(todo := np.flatnonzero(done < lengths)):
            left = scales.until_next(carries[todo])
            counts = np.minimum(lengths[todo] - done[todo], left)
            first = starts[todo] + done[todo]
            at = np.repeat(first - (counts.cumsum() - counts), counts) + np.arange(counts.sum())
            result = self._observe_own(scales, observations[at], counts, carries[todo])
            predictions[at], carries[todo] = result.predictions, result.carries
            if scores is not None and result.scores is not None:
                scores.put(at, result.scores)
            done[todo] += counts
            due = counts == left
            if due.any():
                which, last = todo[due], (first + counts - 1)[due]
                replayed = self._take_scale(scales, carries[which])
                carries[which], ends = replayed.carries, replayed.predictions
                predictions[last] = ends
                if scores is not None and replayed.scores is not None:
                    scores.widths[last] = replayed.scores.widths
        return StepResult(predictions, carries, scores)

    def _observe_own(
        self, scales: SessionScales, observations: Numbers, lengths: Ints, carries: Floats
    ) -> StepResult:
        inputs, outputs = self._own_scales(carries)
        result = self._observe(
            observations, lengths, carries, inputs.repeated(lengths), outputs.repeated(lengths)
        )
        if result.scores is not None:
            result.scores.units[np.repeat(scales.unsettled(carries), lengths)] = np.nan
        scales.record(observations, lengths, result.carries)
        return result

    def _take_scale(self, scales: SessionScales, carries: Floats) -> StepResult:
        """Give sessions at a stage the scale of what they have observed, and replay that under it.

        Returns a prediction and scores for each session, after its last observation.
        """
        observations, lengths = scales.settle(carries)
        restarted = self._cleared(carries)
        restarted[:, self.layout.tail_part] = carries[:, self.layout.tail_part]
        inputs, outputs = self._own_scales(carries)
        result = self._observe(
            observations, lengths, restarted, inputs.repeated(lengths), outputs.repeated(lengths)
        )
        for part in (self.layout.state, self.layout.prediction, self.layout.learned):
            carries[:, part] = result.carries[:, part]
        return StepResult(result.predictions, carries, result.scores).pick(lengths.cumsum() - 1, slice(None))

    def _own_scales(self, carries: Floats) -> tuple[_Scale, _Scale]:
        """The scales of the inputs and the outputs of these sessions: over columns, or [batch, columns]."""
        if self.scales is None:
            return self._inputs, self._outputs
        mean, std = self.scales.of_sessions(carries)
        columns = self._output_columns
        return _Scale(mean, std), _Scale(mean[:, columns], std[:, columns])

    def roll_out(
        self, carries: Floats, steps: int, ahead: Floats | None = None, done: Ints | None = None
    ) -> tuple[Numbers, Floats]:
        """Forecast: feed predictions back in, or say what the sessions have learned of each horizon.

        Parameters
        ----------
        carries : [batch, carry_size] of sessions that have observed something; not written to
        steps : how many predictions, at least 1
        ahead : [batch, steps, inputs known ahead], in the order of `future_inputs` and in the data's own
            units: their values when each prediction is due; needed where there are any
        done : [batch], steps that were forecast before, from the same observations; without it, none

        Returns
        -------
        forecast : [batch, steps, outputs], the data's own units; the first is the last prediction. All NaN of
            a session that would feed back what the network cannot take
        carries : [batch, carry_size]; rolling these out again continues where this forecast stopped

        Raises
        ------
        CannotForecast : the targets and what is known ahead do not cover the inputs
        """
        if self._direct:
            first = np.ones(len(carries), np.int64) if done is None else done + 1
            learned = carries[:, self.layout.learned]
            forecasts = self._learner().forecast(learned, first, steps)
            return self._own_scales(carries)[1].by_row().unscaled(forecasts), carries
        if self.missing or (self.future_inputs and ahead is None):
            raise CannotForecast(self.missing or tuple(self.artifact.columns[i] for i in self.future_inputs))
        forecast = np.empty((len(carries), steps, self.output_size), self.output_type)
        carries = carries.copy()
        latest = self.layout.predictions(carries)
        of_inputs, of_outputs = self._own_scales(carries)
        inputs = np.empty((len(carries), self.input_size), self.input_type)
        future = self.future_inputs
        failed = np.zeros(len(carries), np.bool_)
        for step in range(steps):
            forecast[:, step] = latest
            self._stepper.feed_back(inputs, latest)
            if ahead is not None:
                inputs[:, future] = of_inputs.pick(future).scaled(ahead[:, step])
            if (unusable := self._rules.replace_unusable(inputs)) is not None:
                failed |= unusable
            latest[:] = self._stepper.predict(carries, inputs)
        forecast[failed] = np.nan
        return of_outputs.by_row().unscaled(forecast), carries

    def write_text(
        self,
        carries: Floats,
        positions: Ints,
        steps: Ints,
        sampler: TokenSampler,
        watches: Sequence[StopWatch],
        seconds: float = math.inf,
    ) -> tuple[list[list[int]], Floats]:
        """Draw tokens of many texts, one of each at a time, and feed each back in.

        Parameters
        ----------
        carries : [batch, carry_size] of sessions that have observed something; not written to
        positions : [batch], how many tokens each session has observed
        steps : [batch], most tokens of each text, at least 1
        sampler : of these texts; used up
        watches : of these texts; a text ends with the token that stops it
        seconds : after so long all texts end, each with one token at least

        Returns
        -------
        tokens : of each text
        carries : [batch, carry_size], each behind the last token of its text; not finite where the network
            failed

        Raises
        ------
        CannotForecast : the model is none of text
        """
        text = self.artifact.text
        if text is None:
            raise CannotForecast(self.missing)
        tokens: list[list[int]] = [[] for _ in watches]
        rows, moved = carries.copy(), np.empty_like(carries)
        part = slice(text.start, text.start + len(text.vocabulary))
        texts, steps = np.arange(len(rows)), steps.copy()
        positions = positions.copy()
        until = perf_counter() + seconds
        while len(texts):
            latest = self.layout.predictions(rows)
            drawn = sampler.draw(latest[:, part], positions)
            latest[:] = self._predict_as_in_a_batch(rows, drawn[:, None].astype(self.input_type))
            positions += 1
            steps -= 1
            going = (steps > 0) & (perf_counter() < until)
            for place, (i, token) in enumerate(zip(texts.tolist(), drawn.tolist(), strict=True)):
                tokens[i].append(token)
                if watches[i].add(token):
                    going[place] = False
            if not going.all():
                moved[texts[~going]] = rows[~going]
                texts, rows, positions, steps = texts[going], rows[going], positions[going], steps[going]
                sampler.keep(going)
        if self.tail:
            observed = np.concatenate(tokens)[:, None].astype(self.input_type)
            self.layout.append_to_tails(observed, np.array(list(map(len, tokens))), carries, moved)
        return tokens, moved

    def _predict_as_in_a_batch(self, rows: Floats, inputs: Numbers) -> Numbers:
        """As `Stepper.predict`, with the same bits for a lone session as for one of several.

        BLAS adds up the products of a single row in another order. Where a draw falls between two tokens by
        less than the difference, a text would depend on what is written beside it.
        """
        if len(rows) > 1:
            return self._stepper.predict(rows, inputs)
        pair = rows.repeat(2, axis=0)
        outputs = self._stepper.predict(pair, inputs.repeat(2, axis=0))
        rows[:] = pair[:1]
        return outputs[:1]

    # --- the life of a carry

    @property
    def new_carry(self) -> Floats:
        """[carry_size], a session that has observed nothing."""
        return self.initial_state(self.learning)

    def initial_state(self, learning: Learning) -> Floats:
        """[carry_size], a session that has observed nothing and learns like this, which is of this layout."""
        carry = np.zeros(self.carry_size, np.float32)
        carry[self.layout.state] = self.net.fresh
        if self.learner is not None:
            carry[self.layout.learned] = self.learner.initial_state(learning)
        if self.scales is not None:
            self.scales.initialize(carry[None])
        return carry

    def begin_series(self, carry: Floats, series: str) -> bool:
        """Give a session without observations, [carry_size], the scale of a series; in place.

        Returns whether the network was trained on a series of this name.
        """
        return self.scales is not None and self.scales.give(carry, series)

    def reset(self, carries: Floats) -> Floats:
        """[batch, carry_size], the same sessions with all that they observed forgotten."""
        cleared = self._cleared(carries)
        if self.scales is not None:
            self.scales.reset(cleared, carries)
        return cleared

    def _cleared(self, carries: Floats) -> Floats:
        """The same sessions with neither state nor a scale, and what their learning options say."""
        cleared = np.zeros_like(carries)
        cleared[:, self.layout.state] = self.net.fresh
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
            if self.samples is not None and older.samples is not None:
                self.samples.set_rate(carry, older.samples.rate_of(before))
            seconds = older.layout.clock(before)
            if seconds is not None and self.artifact.time_features:
                self.layout.set_clock(carry, seconds)
        same = self.artifact.columns == older.artifact.columns
        if self.scales is not None and older.scales is not None and same:
            self.scales.copy_settled(started, older.scales, carries)
        return started

    def check(self, carry: Floats) -> None:
        """Refuse a carry, [carry_size], that no session can have.

        Raises
        ------
        ValueError
        """
        if not self.finite_carries(carry[None]).all():
            raise ValueError("the carry has NaN or infinity")
        if self.learner is not None:
            self.learner.check(carry[self.layout.learned])
        if self.samples is not None:
            self.samples.check(carry)
        if self.scales is not None:
            self.scales.check(carry)

    # --- what numbers may be

    @property
    def carry_nbytes(self) -> int:
        """Bytes of a session's carry."""
        return 4 * self.carry_size

    @property
    def observation_nbytes(self) -> int:
        """Bytes of one observation."""
        return int(self.input_size * self.input_type.itemsize)

    def numbers(self, observations: Numbers) -> Numbers:
        """The same observations, of the type that the network takes."""
        return observations.astype(self.input_type, copy=False)

    def broken_rules(self, observations: Numbers) -> Bools | None:
        """[total], which of these observations have a number that its input cannot hold; None if none has.

        Parameters
        ----------
        observations : [total, inputs]
        """
        return self._rules.broken(observations)

    def complaint(self, observation: Numbers) -> str:
        """What is wrong with an observation, [inputs], that breaks a rule."""
        return self._rules.complaint(observation)

    def example(self) -> Numbers:
        """[2, inputs], two observations as they might be."""
        if self.artifact.scaling is None:
            return self._rules.nearest(np.zeros((2, self.input_size), self.input_type))
        mean, std = self._inputs.mean, self._inputs.std
        return self._rules.nearest(np.stack([mean, mean + np.float32(0.1) * std]))

    def huge_number(self, observations: Numbers, carry: Floats) -> tuple[int, int] | None:
        """Row and column of the first number that is far out of the data's range; None if there is none.

        What is normal for a graph is not known: nothing is huge.

        Parameters
        ----------
        observations : [steps, inputs], of one session
        carry : [carry_size], of the session
        """
        if self.artifact.scaling is None:
            return None
        scaled = self._own_scales(carry[None])[0].scaled(observations)
        huge = np.argwhere(np.abs(scaled) > HUGE_DEVIATION)
        return (int(huge[0, 0]), int(huge[0, 1])) if len(huge) else None

    def all_finite(self, predictions: Numbers, carries: Floats) -> bool:
        """Whether there is no NaN or infinity. May also be False if some are near the largest float."""
        return _is_finite(predictions) and all(_is_finite(carries[:, part]) for part in self.layout.floats)

    def finite_carries(self, carries: Floats) -> Bools:
        """[batch], which carries have neither NaN nor infinity among their floats."""
        finite = np.ones(len(carries), np.bool_)
        for part in self.layout.floats:
            finite &= np.isfinite(carries[:, part]).all(axis=1)
        return finite

    # --- what a carry says

    def last_predictions(self, carries: Floats) -> Numbers:
        """The last prediction that each carry holds: [batch, outputs], the data's own units."""
        return self._own_scales(carries)[1].unscaled(self.layout.predictions(carries))

    def forecast_widths(self, carries: Floats, steps: int) -> Floats:
        """Half-widths of the intervals of forecasts, [batch, steps, levels, outputs], own units."""
        widths = self._learner().forecast_widths(carries[:, self.layout.learned], steps)
        return np.asarray(widths * self._own_scales(carries)[1].by_row(2).std)

    def horizons_prior(self, carry: Floats) -> dict[str, Floats]:
        """Weights, by name, of an artifact whose sessions begin as this one, [carry_size], forecasts."""
        return self._learner().horizons_prior(carry[self.layout.learned])

    def errors(self, carries: Floats) -> ErrorStatistics:
        """How wrong each session has been, [batch, ...], in the data's own units."""
        std = self._own_scales(carries)[1].std
        return self._learner().errors(carries[:, self.layout.learned]).rescale(std)

    def relative_errors(self, carries: Floats, which: Ints) -> Floats:
        """[n], of the carries `which`, the mean squared error as a multiple of that of persistence."""
        return self._learner().relative_errors(carries[:, self.layout.learned], which)

    def last_scores(self, carries: Floats, which: Ints) -> Floats:
        """[n], of the carries `which`, the score of the last observation, in [0, 1); NaN if there is none."""
        return self._learner().last_scores(carries[:, self.layout.learned], which)

    def level(self, carries: Floats) -> Floats:
        """[batch], a view: the level of the intervals that each session wants with every chunk; 0: none."""
        return np.asarray(self._learner().level(carries[:, self.layout.learned]))

    def season_phases(self, carries: Floats) -> Ints | None:
        """[batch], where in the season the last observation of each session was; None without one."""
        learner = self._learner()
        return learner.season_phases(carries[:, self.layout.learned])

    def learning_of(self, carry: Floats) -> Learning:
        """How the session of this carry, [carry_size], learns."""
        return self.learning if self.learner is None else self.learner.options(carry[self.layout.learned])

    @property
    def fingerprint(self) -> str:
        """What a carry belongs to: the artifact's fingerprint, the kind of learning where it differs, and the
        name of an alias."""
        kind, artifact = self.learning.kind, self.artifact
        suffix = f"{KIND_SEPARATOR}{kind}" if kind != artifact.learning.kind else ""
        return artifact.fingerprint + suffix + (f"{ALIAS_SEPARATOR}{artifact.name}" if self.is_alias else "")

    def as_alias(self) -> Forecaster:
        """The same, where a model of another name has this network, too: each keeps its own sessions."""
        alias = copy.copy(self)  # nothing in it changes
        alias.is_alias = True
        return alias

    def with_kind(self, kind: str) -> Forecaster:
        """The same artifact for sessions with another kind of learning (`Learning.kind`).

        Raises
        ------
        BadArtifact : the artifact cannot learn like that
        """
        learning = self.artifact.learning.with_kind(kind)
        sibling = Forecaster(self.artifact, self.execution, self.tail, learning)
        return sibling.as_alias() if self.is_alias else sibling

    def _learner(self) -> Learner:
        if self.learner is None:
            raise LookupError(f"the sessions of {self.artifact.name!r} learn nothing")
        return self.learner


def _is_finite(numbers: AnyArray) -> bool:
    """One dot product takes half as long as a pass that tests every number."""
    flat = numbers.ravel()
    return math.isfinite(np.vdot(flat, flat))


class _Scale:
    """Between the data's own units and the network's.

    Parameters
    ----------
    mean, std : [columns]
    """

    def __init__(self, mean: Floats, std: Floats) -> None:
        self.mean, self.std = mean, std

    @staticmethod
    def of(scaling: Scaling | None) -> _Scale:
        """The scale of an artifact's columns."""
        return _SameUnits() if scaling is None else _Scale(_single(scaling.mean), _single(scaling.std))

    def repeated(self, lengths: Ints) -> _Scale:
        """Of each observation, [total, columns], where this is of each session, [batch, columns]."""
        return _Scale(np.repeat(self.mean, lengths, axis=0), np.repeat(self.std, lengths, axis=0))

    def by_row(self, axes: int = 1) -> _Scale:
        """The same for numbers [batch, steps, columns], or with more axes after the sessions."""
        if self.mean.ndim == 1:
            return self
        shape = (len(self.mean), *(1,) * axes, self.mean.shape[1])
        return _Scale(self.mean.reshape(shape), self.std.reshape(shape))

    def pick(self, columns: list[int]) -> _Scale:
        """Of these columns."""
        return _Scale(self.mean[..., columns], self.std[..., columns])

    def scaled(self, numbers: Numbers) -> Numbers:
        """Numbers, [..., columns], in the network's units."""
        return np.asarray((numbers - self.mean) / self.std, np.float32)

    def unscaled(self, numbers: Numbers) -> Numbers:
        """The inverse of `scaled`."""
        return numbers * self.std + self.mean


class _SameUnits(_Scale):
    """The network takes the data's own units."""

    def __init__(self) -> None:
        super().__init__(np.zeros(1, np.float32), np.ones(1, np.float32))

    def scaled(self, numbers: Numbers) -> Numbers:
        """The same array."""
        return numbers

    unscaled = scaled


def _learner_of(artifact: ServedArtifact, learning: Learning) -> Learner | None:
    if not learning.enabled:
        return None
    if not isinstance(artifact, Artifact):
        raise BadArtifact(f"the sessions of {artifact.name!r}, which is a graph, cannot learn")
    if learning.forecasts_directly and artifact.future:
        known = ", ".join(artifact.future)
        raise BadArtifact(f"{artifact.name!r} cannot learn horizons: a direct forecast ignores {known}")
    return Learner(artifact, learning)


def _single(values: Doubles | tuple[float, ...]) -> Floats:
    return np.asarray(values, np.float32)
