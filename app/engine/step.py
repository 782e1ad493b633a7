"""The step of a wave: every chunk of one model in one batched pass, and every forecast in another.

Most chunks are short, and a wave of them is a handful of array operations over columns. A chunk that would
hold its neighbours up, or that wants a forecast behind it, goes the way of `app.long`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from app.engine import slicing
from app.engine.batch import Batch, SessionExpired, advance_rows
from app.engine.chunk_columns import ChunkColumns, join_columns
from app.engine.extra_outputs import extra_outputs
from app.engine.inputs import advance_clock, prepare_inputs
from app.engine.time_budget import BATCH_SECONDS, CONTENDED_SECONDS, MIN_STEPS, TimeBudget
from app.errors import CannotForecast, StepFailed, Unprocessable
from app.jobs.answers import BulkAnswer, ChunkAnswer
from app.jobs.jobs import Advance, AdvanceMany
from app.jobs.split import LONG_CHUNK
from app.session.rows import Answer, Rows, scalar
from app.session.slab import Slab
from models.adaptation.learner import Scores
from models.arrays import Bools, Epochs, Floats, Ints, Seconds
from models.forecaster import Forecaster, StepResult, longest_chunk
from models.jit import FLOAT, contiguous, jit, readonly

log = logging.getLogger("carryover.engine")

Failures = dict[int, StepFailed]  # by column


class Stepper:
    """Steps waves; remembers only how fast each model is.

    Parameters
    ----------
    recent_bytes : of remembered long answers a session
    """

    def __init__(self, recent_bytes: int) -> None:
        self.recent_bytes = recent_bytes
        self._time_budgets: defaultdict[Slab, TimeBudget] = defaultdict(TimeBudget)
        self.contended = False  # whether several tenants call, and wait for each other's chunks

    def last_pass_seconds(self, slab: Slab) -> float:
        """Seconds that the newest pass of this model took."""
        return self._time_budgets[slab].last_seconds if slab in self._time_budgets else 0.0

    @property
    def observations(self) -> int:
        """That one wave may take of the slowest model."""
        return min(
            [budget.observations for budget in self._time_budgets.values()] or [TimeBudget().observations]
        )

    @property
    def nbytes(self) -> int:
        """Of observations that one wave may take, about."""
        return self.observations * min([4 * slab.forecaster.input_size for slab in self._time_budgets] or [4])

    @property
    def _seconds(self) -> float:
        return CONTENDED_SECONDS if self.contended else BATCH_SECONDS

    def add(self, job: Advance, slab: Slab, row: int, batch: Batch) -> None:
        """Take a chunk into the wave.

        Raises
        ------
        Unprocessable, CannotForecast : it cannot be applied
        Late : the session has expired
        """
        forecaster = slab.forecaster
        if job.options is not None and job.progress is None:
            _check_alive(slab, row, batch)
            prepare_inputs(job, slab, row)
        observations = job.observations
        if observations.shape[1] != forecaster.input_size:
            _check_alive(slab, row, batch)
            raise wrong_width_error(forecaster, observations.shape[1])
        if job.progress is not None:
            (batch.long if job.progress.forecast_carry is None else batch.forecasts).append((slab, row, job))
        elif job.horizon and forecaster.missing:
            raise cannot_forecast_error(forecaster)
        elif job.horizon or len(observations) > (MIN_STEPS if self.contended else LONG_CHUNK):
            slicing.begin(job, slab, row, batch)
        else:
            group = batch.chunks_of(slab)
            group.jobs.append(job)
            group.job_rows.append(row)
            if job.reset or job.delete:
                group.resets_or_deletes = True
            if job.options is not None:
                group.has_options = True

    def add_bulk(self, job: AdvanceMany, slab: Slab, rows: Ints, batch: Batch) -> None:
        """Take many chunks into the wave, none of them long.

        Raises
        ------
        Unprocessable : none of them can be applied
        """
        width = job.observations.shape[1]
        if width != slab.forecaster.input_size:
            raise wrong_width_error(slab.forecaster, width)
        batch.chunks_of(slab).bulk_jobs.append((job, rows))

    def admit(self, group: ChunkColumns, batch: Batch) -> list[Advance]:
        """Let the chunks that are in step through; settle the others. Returns those whose session expired."""
        group.read()
        before, digests = group.before, group.digests
        headers = before.headers
        go = np.empty(len(digests), np.bool_)
        expired: list[Advance] = []
        columns = headers["position"], headers["epoch"], headers["deadline"]
        if not _in_step(*columns, group.at, group.epochs, batch.now, go):
            late = headers["deadline"] < batch.now
            for i, job in group.keep(go, batch.split).items():
                if late[i]:
                    expired.append(job)
                else:
                    batch.replay_or_refuse(group.slab, job, before, i, int(digests[i]))
        if group.resets_or_deletes:
            group.reset_sessions()
        return expired

    def step(self, batch: Batch) -> None:
        """One pass over the chunks of each model, then one over its forecasts; stages what is whole."""
        for slab in {*batch.chunks, *(slab for slab, _, _ in batch.long)}:
            self._advance(
                slab, batch.chunks_of(slab), [item for item in batch.long if item[0] is slab], batch
            )
        for slab in {slab for slab, _, _ in batch.forecasts}:
            rolling = [item for item in batch.forecasts if item[0] is slab]
            steps = self._time_budgets[slab].steps(len(rolling), self._seconds)
            slicing.roll(slab, rolling, steps, batch, self.recent_bytes)

    def _advance(
        self, slab: Slab, group: ChunkColumns, slow: Sequence[tuple[Slab, int, Advance]], batch: Batch
    ) -> None:
        plain = len(group)
        if not slow:
            if plain:
                observations, carries = group.observations, group.before.carries
                passed, errors = self._one_pass(slab, observations, group.lengths, carries, group.gaps)
                self._stage(group, passed, errors, batch)
            return
        size = self._time_budgets[slab].steps(plain + len(slow), self._seconds)
        slices = [job.observations[job.progress.offset :][:size] for _, _, job in slow if job.progress]
        lengths = np.array([len(part) for part in slices], np.int64)
        carries = np.stack([job.progress.carry for _, _, job in slow if job.progress])
        if plain:
            slices.insert(0, group.observations)
            lengths = np.concatenate([group.lengths, lengths])
            carries = np.concatenate([group.before.carries, carries])
        gaps = group.gaps or any(job.options is not None and job.options.gaps for _, _, job in slow)
        passed, errors = self._one_pass(slab, join_columns(slices), lengths, carries, gaps)
        ends = np.cumsum(lengths)
        if plain:
            mine = {i: error for i, error in errors.items() if i < plain}
            self._stage(group, passed.pick(slice(0, ends[plain - 1]), slice(0, plain)), mine, batch)
        for i, (_, row, job) in enumerate(slow, plain):
            if i in errors:
                batch.refuse(job, errors[i])
            else:
                part = passed.pick(slice(ends[i] - lengths[i], ends[i]), slice(i, i + 1))
                slicing.finish_slice(slab, row, job, part, batch, self.recent_bytes)

    def _one_pass(
        self, slab: Slab, observations: Floats, lengths: Ints, carries: Floats, gaps: bool
    ) -> tuple[StepResult, Failures]:
        """The batched step, and which of its sessions failed. A pass that raises is tried one by one."""
        forecaster = slab.forecaster
        began = time.perf_counter()
        errors: Failures = {}
        try:
            passed = _passed(forecaster, observations, lengths, carries, gaps)
        except Exception:
            log.exception("a step of %d sessions raised; each is tried alone", len(lengths))
            passed, errors = _one_by_one(forecaster, observations, lengths, carries, gaps)
        seconds = time.perf_counter() - began
        self._time_budgets[slab].record(
            seconds, longest_chunk(lengths, observations), len(lengths), len(observations)
        )
        if not (_all_finite(passed.carries) and _all_finite(passed.predictions)):
            errors |= _not_finite(passed.predictions, lengths, passed.carries, errors)
        return passed, errors

    def _stage(self, group: ChunkColumns, passed: StepResult, errors: Failures, batch: Batch) -> None:
        if errors:
            fine = np.ones(len(group), bool)
            fine[list(errors)] = False
            passed = passed.pick(np.repeat(fine, group.lengths), fine)
            for i, job in group.keep(fine, batch.split).items():
                batch.refuse(job, errors[i])
            if not len(group):
                return
        lengths, predictions = group.lengths, passed.predictions
        several = len(predictions) > len(lengths)
        ends = lengths.cumsum() if several else None
        told: dict[int, Answer] = {}
        if group.slab.forecaster.artifact.time_features:
            _move_clocks(group, passed.carries)
        if group.has_options or passed.scores is not None:
            told = _findings(group, passed)
            batch.add_scores(group.slab.forecaster, passed.scores)
        after = advance_rows(
            group.before,
            passed.carries,
            lengths,
            group.digests,
            predictions if ends is None else predictions[ends - 1],
            _long_answers(predictions, lengths, told) if several or told else {},
            batch.now,
            self.recent_bytes,
        )
        batch.stage(group.slab, group.sessions(), group.rows, after)
        if group.resets_or_deletes:
            for i, job in enumerate(group.jobs):
                if job.delete:
                    batch.delete(group.slab, job.session, after, i)
        _answer(group, predictions, ends, after, told, batch)


@jit(
    readonly("int64"), readonly("uint64"), readonly("float64"), readonly("int64"), readonly("uint64"), FLOAT,
    contiguous("bool"),
)  # fmt: skip
def _in_step(
    position: Ints, epoch: Epochs, deadline: Seconds, at: Ints, epochs: Epochs, now: float, go: Bools
) -> bool:
    """Which chunks are where their sessions are, in `go`; whether all of them are."""
    agreed = True
    for i in range(len(go)):
        here = (at[i] == -1 or at[i] == position[i]) and (epochs[i] == 0 or epochs[i] == epoch[i])
        go[i] = here and deadline[i] >= now
        agreed &= go[i]
    return agreed


def _check_alive(slab: Slab, row: int, batch: Batch) -> None:
    """Nothing is said of a chunk by a session that has expired: it may suit the one that takes its place."""
    if scalar(slab.headers, "deadline", row) < batch.now:
        raise SessionExpired


def wrong_width_error(forecaster: Forecaster, width: int) -> Unprocessable:
    """The refusal of observations of another model's width."""
    return Unprocessable(
        f"an observation of model {forecaster.artifact.name!r} has {forecaster.input_size} numbers "
        f"({', '.join(readonly.name for readonly in forecaster.artifact.inputs)}), row 0 has {width}",
        row=0,
    )


def cannot_forecast_error(forecaster: Forecaster) -> CannotForecast:
    """The refusal of a forecast whose inputs nobody predicts."""
    missing = ", ".join(forecaster.missing)
    return CannotForecast(
        f"the model does not predict its input {missing}, which a forecast would have to feed back",
        missing=list(forecaster.missing),
    )


def _answer(
    group: ChunkColumns,
    predictions: Floats,
    ends: Ints | None,
    after: Rows,
    extra_outputs: dict[int, Answer],
    batch: Batch,
) -> None:
    """What the chunks of a group are answered, once they are committed. No `ends`: one prediction each."""
    model, singles = group.slab.forecaster.artifact.name, len(group.jobs)
    positions, epochs = after.headers["position"], after.headers["epoch"]
    if singles:
        if ends is None:
            parts = list(predictions[:singles, None])  # iterating makes the views of one row each soonest
        else:
            own = ends[:singles].tolist()
            parts = [predictions[start:end] for start, end in zip([0, *own], own, strict=False)]
        told = zip(group.jobs, positions[:singles].tolist(), epochs[:singles].tolist(), parts, strict=True)
        batch.provisional_answers += [
            (job, ChunkAnswer(job.session, model, position, epoch, False, {"predictions": part}))
            for job, position, epoch, part in told
        ]
        for i, more in extra_outputs.items():
            if i < singles:
                batch.provisional_answers[i - singles][1].answer.update(more)  # type: ignore[union-attr]
    for job, span in group.spans():
        steps, outputs, run = group.lengths[span], predictions.shape[1], span
        if ends is not None:
            run = slice(ends[span.start] - group.lengths[span.start], ends[span.stop - 1])
        numbers = predictions[run].ravel()
        answer = BulkAnswer(positions[span], epochs[span], steps, outputs, numbers)
        for i, more in extra_outputs.items():
            if span.start <= i < span.stop:
                answer.add_extra_outputs(i - span.start, more)
        batch.provisional_answers.append((job, answer))


def _move_clocks(group: ChunkColumns, carries: Floats) -> None:
    """Every session that has told a time is now at that of its chunk's last row."""
    forecaster = group.slab.forecaster
    told = [job.clock for job in group.jobs] + [None] * (len(group) - len(group.jobs))
    for clock, length, carry in zip(told, group.lengths.tolist(), carries, strict=True):
        advance_clock(forecaster, carry, clock, length)


def _findings(group: ChunkColumns, passed: StepResult) -> dict[int, Answer]:
    """By column, what is told beside the predictions, where anything is."""
    forecaster = group.slab.forecaster
    told: dict[int, Answer] = {}
    options = {i: job.options for i, job in enumerate(group.jobs) if job.options is not None}
    asking = set(options)
    if forecaster.learning.tracks_errors:
        asking.update(np.flatnonzero(forecaster.level(passed.carries)).tolist())
    ends = group.lengths.cumsum()
    for i in asking:
        run = slice(ends[i] - group.lengths[i], ends[i])
        scores = None if passed.scores is None else passed.scores.pick(run)
        more = extra_outputs(
            options.get(i),
            passed.carries[i],
            group.observations[run],
            passed.predictions[run],
            scores,
            forecaster,
        )
        if more:
            told[i] = more
    return told


def _long_answers(predictions: Floats, lengths: Ints, told: dict[int, Answer]) -> dict[int, Answer]:
    """By column, the answers of more than one prediction: copies, or they would keep the wave's alive."""
    ends = lengths.cumsum()
    slicing = np.flatnonzero(lengths > 1).tolist()
    starts = ends - lengths
    return {
        i: {"predictions": predictions[starts[i] : ends[i]].copy(), **told.get(i, {})}
        for i in ({*slicing, *told} if told else slicing)
    }


def _passed(
    forecaster: Forecaster, observations: Floats, lengths: Ints, carries: Floats, gaps: bool
) -> StepResult:
    """One pass over all of them, step by step only where it has to be."""
    if gaps or forecaster.learner is not None:
        return forecaster.observe(observations, lengths, carries)
    return StepResult(*forecaster.advance(observations, lengths, carries), None)


def _all_finite(numbers: Floats) -> bool:
    """False if one of them is not, or for numbers near the largest. One product of BLAS, not two passes."""
    flat = numbers.ravel()
    return math.isfinite(np.vdot(flat, flat))


def _not_finite(predictions: Floats, lengths: Ints, moved: Floats, known: Failures) -> Failures:
    starts = np.cumsum(lengths) - lengths
    fine = np.isfinite(moved).all(axis=1)
    fine &= np.logical_and.reduceat(np.isfinite(predictions).all(axis=1), starts)
    return {
        i: StepFailed("the network left the finite numbers; the session did not move")
        for i in np.flatnonzero(~fine).tolist()
        if i not in known
    }


def _one_by_one(
    forecaster: Forecaster, observations: Floats, lengths: Ints, carries: Floats, gaps: bool
) -> tuple[StepResult, Failures]:
    predictions = np.zeros((len(observations), forecaster.output_size), np.float32)
    learner = forecaster.learner
    scores = None if learner is None else Scores.empty(*predictions.shape, len(learner.levels))
    moved = carries.copy()
    errors: Failures = {}
    start = 0
    for i, length in enumerate(lengths.tolist()):
        run = slice(start, start + length)
        start += length
        try:
            one = _passed(forecaster, observations[run], lengths[i : i + 1], carries[i : i + 1], gaps)
        except Exception as error:  # noqa: BLE001  (whatever it was, it is this session's alone)
            errors[i] = StepFailed(f"the network failed: {error}; the session did not move")
            continue
        predictions[run], moved[i] = one.predictions, one.carries[0]
        if scores is not None and one.scores is not None:
            scores.put(run, one.scores)
    return StepResult(predictions, moved, scores), errors
