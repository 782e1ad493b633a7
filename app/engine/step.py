"""Steps a batch. Every chunk of one model is in one pass, and every forecast in another.

A batch of chunks is a handful of array operations over columns. An unusual chunk is processed by itself, in
slices if it would delay other sessions (`app.engine.slicing`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from app.engine import exactly_once, slicing, texts
from app.engine.alerting import find_alerts
from app.engine.batch import Batch, Text, advance_rows
from app.engine.chunk_answers import answer, pass_outputs
from app.engine.chunk_columns import ChunkColumns, join_columns
from app.engine.inputs import advance_clock, impossible_error, prepare_inputs
from app.engine.model_slabs import ModelSlabs
from app.engine.network_pass import Failures, PassInputs, run_pass
from app.engine.observing import observed_by_group
from app.engine.time_budget import (
    BATCH_SECONDS,
    CONTENDED_SECONDS,
    MIN_SLOW_JOBS,
    MIN_STEPS,
    TextBudget,
    TimeBudget,
)
from app.errors import CannotForecast, CarryoverError, Unprocessable, list_names
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import LONG_CHUNK, Advance, AdvanceMany
from app.session.notes import Alert
from app.session.slab import Slab
from models.arrays import Bools, Epochs, Floats, Ints, Numbers, Seconds
from models.forecaster import Forecaster, StepResult, longest_chunk
from models.jit import FLOAT, contiguous, jit, readonly


class Stepper:
    """Steps batches. Its only state is how fast each model is.

    Parameters
    ----------
    recent_bytes : limit of the bytes of remembered long answers of a session
    models : all that there are
    """

    def __init__(self, recent_bytes: int, models: ModelSlabs) -> None:
        self.recent_bytes = recent_bytes
        self._models = models
        self._time_budgets: defaultdict[Slab, TimeBudget] = defaultdict(TimeBudget)
        self._text_budgets: defaultdict[Slab, TextBudget] = defaultdict(TextBudget)
        self.alerts: Mapping[str, Alert] = {}  # by model, of sessions without an alert of their own
        self.contended = False  # whether several tenants call, so that they wait for each other's chunks

    def last_pass_seconds(self, slab: Slab) -> float:
        """Seconds that the newest pass of this model took."""
        return self._time_budgets[slab].last_seconds if slab in self._time_budgets else 0.0

    @property
    def max_observations(self) -> int:
        """Observations that one batch may take of the slowest model."""
        budgets = self._time_budgets.items()
        most = [slab.forecaster.frame * budget.max_observations for slab, budget in budgets]
        return min(most or [TimeBudget().max_observations])

    @property
    def max_nbytes(self) -> int:
        """Bytes of observations that one batch may take, roughly."""
        row_nbytes = [slab.forecaster.observation_nbytes for slab in self._time_budgets]
        return self.max_observations * min(row_nbytes or [4])

    @property
    def max_slow_jobs(self) -> int:
        """Forecasts, texts and long chunks that one batch may advance by the fewest steps, in its time."""
        budgets = self._time_budgets.values()
        most = [budget.max_sessions(self._seconds) for budget in budgets]
        if self._text_budgets:
            most += [budget.max_texts(self._seconds) for budget in self._text_budgets.values()]
        return min(most, default=MIN_SLOW_JOBS)

    @property
    def _seconds(self) -> float:
        return CONTENDED_SECONDS if self.contended else BATCH_SECONDS

    @property
    def max_whole(self) -> int:
        """Steps of the longest chunk that is stepped whole."""
        return MIN_STEPS if self.contended else LONG_CHUNK

    @property
    def max_joined(self) -> int:
        """Observations of the longest chunk that goes in columns, whichever model it is of."""
        return self.max_whole * self._models.shortest_frame

    def add(self, job: AdvanceMany, slab: Slab, rows: Ints, batch: Batch) -> None:
        """Add chunks to the batch.

        Raises
        ------
        Unprocessable : none of them can be applied
        """
        width = job.observations.shape[1]
        if width != slab.forecaster.input_size:
            raise wrong_width_error(slab.forecaster, width)
        batch.chunks_of(slab).jobs.append((job, rows))

    def add_unusual(self, job: Advance, slab: Slab, row: int, batch: Batch) -> None:
        """Add an unusual chunk to the batch.

        Raises
        ------
        Unprocessable, CannotForecast, OutOfStep : it cannot be applied
        """
        if job.progress is not None:
            advancing = job.progress.forecast_carry is None
            (batch.unusual_chunks if advancing else batch.forecasts).append((slab, row, job))
            return
        prepare_inputs(job, slab, row)
        width = job.observations.shape[1]
        if width != slab.forecaster.input_size:
            raise wrong_width_error(slab.forecaster, width)
        if job.horizon and slab.forecaster.missing:
            raise cannot_forecast_error(slab.forecaster)
        max_whole = self.max_whole * slab.forecaster.frame
        takes_several_batches = bool(job.horizon) or len(job.observations) > max_whole
        if takes_several_batches and batch.may_begin <= 0:
            batch.unfinished.append(job)  # it begins in a later batch
            return
        slicing.begin(job, slab, row, batch)
        batch.may_begin -= takes_several_batches

    def admit(self, group: ChunkColumns, batch: Batch) -> list[AdvanceMany]:
        """Keep the chunks that start at their sessions' positions. The others are replayed or refused.

        Returns the jobs whose session has expired.
        """
        group.fill()
        headers, accepted = group.before.headers, np.empty(len(group), np.bool_)
        columns = headers["position"], headers["epoch"], headers["deadline"]
        if in_step(*columns, group.at, group.epochs, batch.now, accepted):
            expired = []
        else:
            expired = self._replay_or_refuse(group, accepted, batch)
        _refuse_impossible(group, batch)
        return expired

    def _replay_or_refuse(self, group: ChunkColumns, accepted: Bools, batch: Batch) -> list[AdvanceMany]:
        """Answer the chunks that are not accepted, from what is remembered or with a refusal.

        Returns the jobs whose session has expired.
        """
        before, lengths, digests, slab = group.before, group.lengths, group.digests, group.slab
        positions, epochs = group.at, group.epochs
        expired: list[AdvanceMany] = []
        for i, job in group.keep(accepted, batch.split).items():
            if before.headers["deadline"][i] < batch.now:
                expired.append(job)
                continue
            at, epoch = int(positions[i]), int(epochs[i])
            try:
                answer = exactly_once.stored_answer(
                    job.sessions[0], slab, before, i,
                    None if at == -1 else at, epoch or None, int(lengths[i]), int(digests[i]),
                )  # fmt: skip
            except CarryoverError as error:
                batch.refuse(job, error)
            else:
                batch.final_answers.append((job, BulkAnswer.of(answer)))
        return expired

    def step(self, batch: Batch) -> None:
        """Make one pass over the chunks of each model, then one over its forecasts. Stage finished chunks."""
        for slab in {*batch.chunks, *(slab for slab, _, _ in batch.unusual_chunks)}:
            self._step_chunks(
                batch.chunks_of(slab), [item for item in batch.unusual_chunks if item[0] is slab], batch
            )
        for slab in {slab for slab, _, _ in batch.forecasts}:
            forecasts = [item for item in batch.forecasts if item[0] is slab]
            steps = self._time_budgets[slab].max_steps(len(forecasts), self._seconds)
            slicing.roll(slab, forecasts, steps, batch)
        for slab, of_slab in batch.texts.items():
            self._write_texts(slab, of_slab, batch)
        for slab, chunks in batch.finished_chunks.items():
            default = self.alerts.get(slab.forecaster.artifact.name)
            slicing.stage_finished(slab, chunks, batch, self.recent_bytes, default)

    def _write_texts(self, slab: Slab, of_slab: Sequence[Text], batch: Batch) -> None:
        budget = self._text_budgets[slab]
        began = time.perf_counter()
        written = texts.write(slab, of_slab, budget, self._seconds, batch)
        total = sum(text.position - text.start - sum(text.before) for text in of_slab)
        budget.record(time.perf_counter() - began, max(total, 1))
        texts.stage(slab, written, batch, self.recent_bytes)

    def _step_chunks(
        self, group: ChunkColumns, unusual: Sequence[tuple[Slab, int, Advance]], batch: Batch
    ) -> None:
        """Make one pass over the group's chunks and, after them, each unusual chunk or its next slice."""
        slab, count = group.slab, len(group)
        if not unusual:
            if count:
                inputs = PassInputs(group.observations, group.lengths, group.before.carries, False)
                self._stage(group, *self._timed_pass(slab, inputs), batch)
            return
        steps, frame = (
            self._time_budgets[slab].max_steps(count + len(unusual), self._seconds),
            slab.forecaster.frame,
        )
        jobs = [job for _, _, job in unusual]
        inputs = _with_slices(group, jobs, steps * frame, self.max_whole * frame)
        result, failures = self._timed_pass(slab, inputs)
        ends = np.cumsum(inputs.lengths)
        if count:
            failures_of_group = {i: error for i, error in failures.items() if i < count}
            of_group = result.pick(slice(0, ends[count - 1]), slice(0, count))
            self._stage(group, of_group, failures_of_group, batch)
        for i, (_, row, job) in enumerate(unusual, count):
            if i in failures:
                batch.refuse(job, failures[i])
            else:
                part = result.pick(slice(ends[i] - inputs.lengths[i], ends[i]), slice(i, i + 1))
                slicing.finish_slice(slab, row, job, part, batch)

    def _timed_pass(self, slab: Slab, inputs: PassInputs) -> tuple[StepResult, Failures]:
        began = time.perf_counter()
        result, failures = run_pass(slab.forecaster, inputs)
        seconds = time.perf_counter() - began
        observations, lengths = inputs.observations, inputs.lengths
        longest = longest_chunk(lengths, observations)
        self.record_pass(slab, seconds, longest, len(lengths), len(observations))
        return result, failures

    def record_pass(self, slab: Slab, seconds: float, longest: int, sessions: int, total: int) -> None:
        """Learn how fast a model is; see `TimeBudget.record`."""
        frame = slab.forecaster.frame
        if frame > 1:  # the steps of such a network are frames
            longest, total = max(1, longest // frame), max(1, total // frame)
        self._time_budgets[slab].record(seconds, longest, sessions, total)

    def _stage(self, group: ChunkColumns, result: StepResult, failures: Failures, batch: Batch) -> None:
        if failures:
            fine = np.ones(len(group), bool)
            fine[list(failures)] = False
            result = result.pick(np.repeat(fine, group.lengths), fine)
            for i, job in group.keep(fine, batch.split).items():
                batch.refuse(job, failures[i])
            if not len(group):
                return
        if group.slab.forecaster.artifact.time_features:
            _advance_clocks(group, result.carries)
        outputs = pass_outputs(group, result)
        batch.add_scores(group.slab.forecaster, result.scores)
        after = advance_rows(
            group.before,
            result.carries,
            group.lengths,
            group.digests,
            outputs.last,
            outputs.long_answers(),
            batch.now,
            self.recent_bytes,
        )
        sessions, default = group.sessions(), self.alerts.get(group.slab.forecaster.artifact.name)
        find_alerts(group.slab, sessions, after, group.lengths, result.scores, default, batch)
        batch.stage(group.slab, sessions, group.rows, after, observed_by_group(group, result))
        answer(group, outputs, after, batch)


@jit(
    readonly("int64"), readonly("uint64"), readonly("float64"), readonly("int64"), readonly("uint64"), FLOAT,
    contiguous("bool"),
)  # fmt: skip
def in_step(
    position: Ints, epoch: Epochs, deadline: Seconds, at: Ints, epochs: Epochs, now: float, accepted: Bools
) -> bool:
    """Mark in `accepted` the chunks that start at their sessions' positions. Returns whether all do."""
    agreed = True
    for i in range(len(accepted)):
        here = (at[i] == -1 or at[i] == position[i]) and (epochs[i] == 0 or epochs[i] == epoch[i])
        accepted[i] = here and deadline[i] >= now
        agreed &= accepted[i]
    return agreed


def _refuse_impossible(group: ChunkColumns, batch: Batch) -> None:
    """Leave out the chunks with a number that their network's inputs cannot hold."""
    forecaster = group.slab.forecaster
    broken = forecaster.broken_rules(group.observations)
    if broken is None:
        return
    ends = group.lengths.cumsum()
    starts = ends - group.lengths
    possible = ~np.logical_or.reduceat(broken, starts)
    errors = {
        i: impossible_error(forecaster, group.observations[starts[i] : ends[i]])
        for i in np.flatnonzero(~possible).tolist()
    }
    for i, job in group.keep(possible, batch.split).items():
        batch.refuse(job, errors[i])


def wrong_width_error(forecaster: Forecaster, width: int) -> Unprocessable:
    """The refusal of observations that have another width than the model's."""
    artifact = forecaster.artifact
    if artifact.time_features and width == forecaster.input_size - artifact.time_input_count:
        computed = list_names(artifact.columns[width:])
        return Unprocessable(
            f"model {artifact.name!r} takes timestamps with its observations: the server computes {computed} "
            "from them",
            row=0,
            field="timestamps",
        )
    return Unprocessable(
        f"an observation of model {artifact.name!r} has {forecaster.input_size} numbers "
        f"({list_names(artifact.columns)}), row 0 has {width}",
        row=0,
    )


def cannot_forecast_error(forecaster: Forecaster) -> CannotForecast:
    """The refusal of a forecast by a model that does not predict all its inputs."""
    missing = ", ".join(forecaster.missing)
    return CannotForecast(
        f"the model does not predict its input {missing}, which a forecast would have to feed back",
        missing=list(forecaster.missing),
    )


def _with_slices(group: ChunkColumns, unusual: Sequence[Advance], size: int, max_whole: int) -> PassInputs:
    """Join the inputs of a group and, after them, of each unusual chunk or its next slice."""
    under_way = [(job.observations, job.progress) for job in unusual if job.progress is not None]
    slices: list[Numbers] = [
        chunk[progress.offset :][: len(chunk) if len(chunk) <= max_whole else size]
        for chunk, progress in under_way
    ]
    lengths = np.array([len(part) for part in slices], np.int64)
    carries = np.stack([progress.carry for _, progress in under_way])
    first_rows = np.array([0] * len(group) + [progress.offset for _, progress in under_way], np.int64)
    if len(group):
        slices.insert(0, group.observations)
        lengths = np.concatenate([group.lengths, lengths])
        carries = np.concatenate([group.before.carries, carries])
    gaps = any(job.options is not None and job.options.gaps for job in unusual)
    return PassInputs(join_columns(slices), lengths, carries, gaps, first_rows)


def _advance_clocks(group: ChunkColumns, carries: Floats) -> None:
    """Set the time in every session's carry to that of its chunk's last row; in place."""
    for length, carry in zip(group.lengths.tolist(), carries, strict=True):
        advance_clock(group.slab.forecaster, carry, None, length)
