"""Runs one pass of a network over many sessions. A session that fails is found, and only it fails."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from app.errors import StepFailed, Unprocessable
from models.adaptation.learner import Scores
from models.arrays import Floats, Ints, Numbers
from models.forecaster import Forecaster, RunTooLongError, StepResult

log = logging.getLogger("carryover.engine")

NOT_FINITE_OR_EXACT = "NaN, infinity, or a whole number of 2**53 or more"
Failures = dict[int, StepFailed | Unprocessable]  # errors by index of the session


@dataclass(slots=True)
class PassInputs:
    """What a pass takes.

    observations : [total, inputs], one chunk after the other
    lengths : [batch], of the chunks
    carries : [batch, carry_size], before the pass
    gaps : whether numbers are missing (NaN)
    first_rows : [batch], which row of its chunk is a session's first here; None: row 0 for all
    """

    observations: Numbers
    lengths: Ints
    carries: Floats
    gaps: bool
    first_rows: Ints | None = None

    def one(self, i: int, observations: slice) -> PassInputs:
        """The inputs of one session, whose chunk lies at this slice of the observations."""
        chunk = slice(i, i + 1)
        return PassInputs(
            self.observations[observations], self.lengths[chunk], self.carries[chunk], self.gaps
        )


def run_pass(forecaster: Forecaster, inputs: PassInputs) -> tuple[StepResult, Failures]:
    """Step every session. The results of a session that failed are invalid."""
    failures: Failures = {}
    try:
        result = _advance(forecaster, inputs)
    except RunTooLongError as error:
        # None is tried alone: each could take as long again, and everybody would wait.
        log.error("a step of %d sessions was ended: %s", len(inputs.lengths), error)
        refusal = StepFailed(f"{error}; the session was not advanced")
        result = _empty_result(forecaster, inputs)
        return result, dict.fromkeys(range(len(inputs.lengths)), refusal)
    except Exception:
        log.exception("a step of %d sessions raised; each is tried alone", len(inputs.lengths))
        result, failures = _one_by_one(forecaster, inputs)
    if not forecaster.all_finite(result.predictions, result.carries):
        failures = _not_finite(forecaster, inputs, result) | failures
    return result, failures


def _advance(forecaster: Forecaster, inputs: PassInputs) -> StepResult:
    """Step observation by observation only where gaps or learning need it, because that is slower."""
    if inputs.gaps or forecaster.learner is not None:
        return forecaster.observe(inputs.observations, inputs.lengths, inputs.carries)
    return StepResult(*forecaster.advance(inputs.observations, inputs.lengths, inputs.carries), None)


def _one_by_one(forecaster: Forecaster, inputs: PassInputs) -> tuple[StepResult, Failures]:
    stepped = _empty_result(forecaster, inputs)
    failures: Failures = {}
    start = 0
    for i, length in enumerate(inputs.lengths.tolist()):
        chunk = slice(start, start + length)
        start += length
        try:
            result = _advance(forecaster, inputs.one(i, chunk))
        except Exception as error:  # noqa: BLE001  (whatever it was, it fails this session alone)
            failures[i] = StepFailed(f"the network failed: {error}; the session was not advanced")
            continue
        stepped.predictions[chunk], stepped.carries[i] = result.predictions, result.carries[0]
        if stepped.scores is not None and result.scores is not None:
            stepped.scores.put(chunk, result.scores)
    return stepped, failures


def _empty_result(forecaster: Forecaster, inputs: PassInputs) -> StepResult:
    """Predictions of zeros, and the carries before the pass."""
    predictions = np.zeros((len(inputs.observations), forecaster.output_size), forecaster.output_type)
    learner = forecaster.learner
    total, outputs = predictions.shape
    scores = None if learner is None else Scores.empty(total, outputs, len(learner.levels))
    return StepResult(predictions, inputs.carries.copy(), scores)


def _not_finite(forecaster: Forecaster, inputs: PassInputs, result: StepResult) -> Failures:
    starts = np.cumsum(inputs.lengths) - inputs.lengths
    finite = forecaster.finite_carries(result.carries)
    finite &= np.logical_and.reduceat(np.isfinite(result.predictions).all(axis=1), starts)
    return {i: _failure(forecaster, inputs, i, int(starts[i])) for i in np.flatnonzero(~finite).tolist()}


def _failure(forecaster: Forecaster, inputs: PassInputs, i: int, start: int) -> StepFailed | Unprocessable:
    """Find out why a session failed: because of a huge observation if there is one, else the network."""
    observations = inputs.observations[start : start + int(inputs.lengths[i])]
    huge = forecaster.huge_number(observations, inputs.carries[i])
    if huge is None:
        wrong = "NaN or infinity" if forecaster.output_type == np.float32 else NOT_FINITE_OR_EXACT
        return StepFailed(f"the network produced {wrong}; the session was not advanced")
    row, column = huge
    number, name = float(observations[row, column]), forecaster.artifact.columns[column]
    row += 0 if inputs.first_rows is None else int(inputs.first_rows[i])
    return Unprocessable(
        f"row {row}: {name} is {number:g}, too large to learn from; send null if it was not observed", row=row
    )
