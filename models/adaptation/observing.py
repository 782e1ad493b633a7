"""Sessions that are moved on step by step, each in its own units where it has a scale of its own.

A session of a network of many series takes another scale at certain counts of observations
(`models/adaptation/scales.py`). A chunk that passes such a count is cut there, and what the session has
observed is replayed under the new scale, so that the result does not depend on how a stream was cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.adaptation.learner import Scores
from models.adaptation.scales import SessionScales
from models.adaptation.stepper import Stepper
from models.arrays import Floats, Ints, Numbers
from models.data.units import Units


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a pass over the chunks of a batch gives; see `Observer.observe`.

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


class Observer:
    """Moves sessions on, step by step, learning from the error of each prediction.

    Parameters
    ----------
    stepper : of the network and the learner of its sessions
    inputs, outputs : the units of all sessions that have none of their own
    scales : of the sessions, where each has its own; None where all have one
    output_columns : for each output the input of the same name, where sessions have their own scales
    """

    def __init__(
        self,
        stepper: Stepper,
        inputs: Units,
        outputs: Units,
        scales: SessionScales | None,
        output_columns: list[int],
    ) -> None:
        self.stepper, self.scales = stepper, scales
        self.net, self.layout, self.learner = stepper.net, stepper.layout, stepper.learner
        self._inputs, self._outputs = inputs, outputs
        self._output_columns = output_columns

    def observe(self, observations: Numbers, lengths: Ints, carries: Floats) -> StepResult:
        """Move every session on by its chunk; see `Forecaster.observe`."""
        if self.scales is not None:
            return self._observe_scaling(self.scales, observations, lengths, carries)
        return self._observe(observations, lengths, carries, self._inputs, self._outputs)

    def cleared(self, carries: Floats) -> Floats:
        """The same sessions with neither state nor a scale, and what their learning options say."""
        cleared = np.zeros_like(carries)
        cleared[:, self.layout.state] = self.net.fresh
        if self.learner is not None:
            cleared[:, self.layout.learned] = self.learner.reset(carries[:, self.layout.learned])
        return cleared

    def units(self, carries: Floats) -> tuple[Units, Units]:
        """Those of the inputs and the outputs of these sessions: over columns, or [batch, columns]."""
        if self.scales is None:
            return self._inputs, self._outputs
        mean, std = self.scales.of_sessions(carries)
        columns = self._output_columns
        return Units(mean, std), Units(mean[:, columns], std[:, columns])

    def _observe(
        self, observations: Numbers, lengths: Ints, carries: Floats, inputs: Units, outputs: Units
    ) -> StepResult:
        """Observe, with these scales: over columns, or over [total, columns]."""
        scaled = inputs.scaled(observations)
        if scaled is observations:
            scaled = observations.copy()  # gaps are filled in, in place
        order = np.argsort(-lengths, kind="stable")
        rows = carries[order]
        predicted, scores = self.stepper.advance(scaled, lengths, order, rows)
        moved = np.empty_like(rows)
        moved[order] = rows
        if self.layout.tail:
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
        predictions = np.empty((len(observations), self.net.output_size), self.net.output_type)
        learner, carries = self.learner, carries.copy()
        scores = None
        if learner is not None:
            scores = Scores.empty(len(observations), self.net.output_size, len(learner.levels))
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
        inputs, outputs = self.units(carries)
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
        restarted = self.cleared(carries)
        restarted[:, self.layout.tail_part] = carries[:, self.layout.tail_part]
        inputs, outputs = self.units(carries)
        result = self._observe(
            observations, lengths, restarted, inputs.repeated(lengths), outputs.repeated(lengths)
        )
        for part in (self.layout.state, self.layout.prediction, self.layout.learned):
            carries[:, part] = result.carries[:, part]
        return StepResult(result.predictions, carries, result.scores).pick(lengths.cumsum() - 1, slice(None))
