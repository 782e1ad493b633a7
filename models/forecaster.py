"""A trained artifact ready to serve: scaling, network, and what a session carries.

`advance` moves many sessions on by chunks of mixed lengths in one pass; `roll_out` feeds predictions back in.
Both take carries and return new ones: nothing is remembered here between calls.

advance     scale -> the net -> unscale                                   (models/net.py)
observe     the same step by step: each observation is first compared with its prediction, and the session
            learns from the error                                         (models/adaptation/observing.py)
roll_out    the last prediction -> input -> next prediction -> ...; or, where the artifact has horizons, what
            the session has learned of each                               (models/adaptation/horizons.py)
write_text  the logits -> a token that is drawn -> input -> logits -> ...  (models/generation/writing.py)
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

import numpy as np

from models.adaptation.alarms import Alarms
from models.adaptation.learner import ErrorStatistics, Learner
from models.adaptation.observing import Observer, StepResult
from models.adaptation.scales import SessionScales
from models.adaptation.stepper import Stepper
from models.arrays import AnyArray, Bools, Doubles, Floats, Ints, Numbers
from models.artifact.artifact import Artifact, check_learning
from models.artifact.learning import Learning
from models.artifact.served import ServedArtifact
from models.carry import CarryLayout
from models.data.units import Units
from models.errors import BadArtifact
from models.generation import writing
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
        self.future_inputs: list[int] = []
        if not self._direct:
            known = {*artifact.future, *artifact.columns[self.input_size - artifact.time_input_count :]}
            self.future_inputs = [i for i, name in enumerate(artifact.columns) if name in known]
        self._stepper = Stepper(self.net, self.layout, self.learner, artifact.predicted_by)
        self._rules = InputRules(artifact.input_ports)
        self._inputs = Units.of(artifact.scaling)
        self._outputs = Units.of(artifact.target_scaling)
        self.alarms: Alarms | None = None
        if self.learning.tracks_errors and self.learner is not None:
            self.alarms = Alarms(self.output_size, self.learning.levels)
        self._scaled, self._unscaled = self._inputs.scaled, self._outputs.unscaled
        self._observer = Observer(
            self._stepper,
            self._inputs,
            self._outputs,
            self.scales,
            [artifact.columns.index(name) for name in artifact.targets] if fleet else [],
        )
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
        return self._observer.observe(observations, lengths, carries)

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
            return self._observer.units(carries)[1].by_row().unscaled(forecasts), carries
        if self.missing or (self.future_inputs and ahead is None):
            raise CannotForecast(self.missing or tuple(self.artifact.columns[i] for i in self.future_inputs))
        forecast = np.empty((len(carries), steps, self.output_size), self.output_type)
        carries = carries.copy()
        latest = self.layout.predictions(carries)
        of_inputs, of_outputs = self._observer.units(carries)
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
        part = slice(text.start, text.start + len(text.vocabulary))
        tokens, moved = writing.write(
            self._predict_as_in_a_batch,
            self.layout,
            part,
            self.input_type,
            carries,
            positions,
            steps,
            sampler,
            watches,
            seconds,
        )
        if self.tail:
            observed = np.concatenate(tokens)[:, None].astype(self.input_type)
            self.layout.append_to_tails(observed, np.array(list(map(len, tokens))), carries, moved)
        return tokens, moved

    def _predict_as_in_a_batch(self, rows: Floats, inputs: Numbers) -> Numbers:
        """As `Stepper.predict`, with the same bits for a lone session as for one of several.

        Most libraries add up the products of a single row in another order. Where a draw falls between two
        tokens by less than the difference, a text would depend on what is written beside it.
        """
        if len(rows) > 1 or self.net.batch_invariant:
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
        cleared = self._observer.cleared(carries)
        if self.scales is not None:
            self.scales.reset(cleared, carries)
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
        scaled = self._observer.units(carry[None])[0].scaled(observations)
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
        return self._observer.units(carries)[1].unscaled(self.layout.predictions(carries))

    def forecast_widths(self, carries: Floats, steps: int) -> Floats:
        """Half-widths of the intervals of forecasts, [batch, steps, levels, outputs], own units."""
        widths = self._learner().forecast_widths(carries[:, self.layout.learned], steps)
        return np.asarray(widths * self._observer.units(carries)[1].by_row(2).std)

    def horizons_prior(self, carry: Floats) -> dict[str, Floats]:
        """Weights, by name, of an artifact whose sessions begin as this one, [carry_size], forecasts."""
        return self._learner().horizons_prior(carry[self.layout.learned])

    def errors(self, carries: Floats) -> ErrorStatistics:
        """How wrong each session has been, [batch, ...], in the data's own units."""
        std = self._observer.units(carries)[1].std
        return self._learner().errors(carries[:, self.layout.learned]).rescale(std)

    def relative_errors(self, carries: Floats, which: Ints) -> Floats:
        """[n], of the carries `which`, the mean squared error as a multiple of that of persistence."""
        return self._learner().relative_errors(carries[:, self.layout.learned], which)

    def last_scores(self, carries: Floats, which: Ints) -> Floats:
        """[n], of the carries `which`, the last observation's surprise, in [0, 1); NaN if there is none."""
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


def _learner_of(artifact: ServedArtifact, learning: Learning) -> Learner | None:
    if not learning.enabled:
        return None
    if not isinstance(artifact, Artifact):
        raise BadArtifact(f"the sessions of {artifact.name!r}, which is a graph, cannot learn")
    check_learning(artifact, learning)
    return Learner(artifact, learning)


def _single(values: Doubles | tuple[float, ...]) -> Floats:
    return np.asarray(values, np.float32)
