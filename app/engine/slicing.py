"""Advances unusual chunks and forecasts. Those that are too long for one batch advance by a slice in each.

The carry after the last slice is kept in the job, and no other job of the session runs meanwhile. Only the
end of a whole chunk is staged. So a slab row never holds the state of a half-processed chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from app.engine import exactly_once
from app.engine.alerting import find_alerts
from app.engine.batch import Batch, FinishedChunk, advance_rows
from app.engine.extra_outputs import extra_outputs, forecast_interval, forecast_quantiles
from app.engine.inputs import advance_clock, clock_after, future_inputs, impossible_error, set_rate
from app.engine.observing import observed_by_finished
from app.engine.times import forecast_times, times_of_chunk, with_times
from app.errors import StepFailed
from app.jobs.answers import FORECAST_QUANTILE, QUANTILE, ChunkAnswer
from app.jobs.jobs import Advance, Forecast, Progress
from app.session.digest import digests
from app.session.notes import Alert
from app.session.recent_answers import reset_sessions
from app.session.rows import scalar
from app.session.slab import Slab
from models.adaptation.learner import Scores
from models.arrays import Floats
from models.forecaster import COVERS, StepResult

log = logging.getLogger("carryover.engine")

RollingForecast = tuple[Slab, int, Advance | Forecast]


def begin(job: Advance, slab: Slab, row: int, batch: Batch) -> None:
    """Begin an unusual chunk. Only here is it checked whether it starts at its session's position.

    Raises
    ------
    OutOfStep : it does not, and it was not applied before
    Unprocessable : a number that its input cannot hold
    Unprocessable, CannotForecast : its forecast lacks inputs that must be known ahead
    """
    before = slab.read(np.array([row]))
    job.observations = slab.forecaster.numbers(job.observations)
    digest = job.digest
    if digest is None:
        digest = int(digests(job.observations, np.array([len(job.observations)]), job.horizon)[0])
    if not job.is_in_step(before.headers[0]):
        length = len(job.observations)
        answer = exactly_once.stored_answer(
            job.session, slab, before, 0, job.at, job.epoch, length, digest, job.options
        )
        batch.final_answers.append((job, answer))
        return
    if slab.forecaster.broken_rules(job.observations) is not None:
        raise impossible_error(slab.forecaster, job.observations)
    if job.reset:
        reset_sessions(before, slab.forecaster)
    if job.options is not None and job.options.rate is not None:
        set_rate(slab.forecaster, before.carries[0], job.options.rate)
    job.progress = Progress(before.carries[0], digest)
    if job.horizon:
        now = clock_after(slab.forecaster, before.carries[0], job.clock, len(job.observations))
        future = None if job.options is None else job.options.future
        job.progress.future_inputs = future_inputs(slab.forecaster, now, job.horizon, future)
    batch.unusual_chunks.append((slab, row, job))


def finish_slice(slab: Slab, row: int, job: Advance, result: StepResult, batch: Batch) -> None:
    """Take the result of a slice of an unusual chunk. Then continue it, begin its forecast, or finish it."""
    progress = job.progress
    if progress is None:
        return
    stepped = job.observations[progress.offset :][: len(result.predictions)]
    predictions, extra = result.predictions, extra_outputs(job.options, stepped, result, slab.forecaster)
    if slab.forecaster.samples is not None:
        position = scalar(slab.headers, "position", row) + progress.offset
        extra |= slab.forecaster.samples.answer(progress.carry, position, predictions)
        predictions = extra.pop("predictions")
    progress.extra_outputs.append(extra)
    progress.scores.append(result.scores)
    progress.predictions.append(predictions)
    progress.offset += len(result.predictions)
    progress.carry = result.carries[0].copy()
    if progress.offset < len(job.observations):
        batch.unfinished.append(job)
    elif job.horizon:
        progress.forecast_carry = progress.carry
        batch.forecasts.append((slab, row, job))
    else:
        _finish(slab, row, job, batch)


def roll(slab: Slab, rolling: Sequence[RollingForecast], steps: int, batch: Batch) -> None:
    """Advance every forecast of one slab by the same number of steps, at most `steps`."""
    under_way = [(row, job, job.progress) for _, row, job in rolling if job.progress is not None]
    carries = np.stack([progress.forecast_carry for _, _, progress in under_way])  # type: ignore[misc]
    remaining = [_horizon(job) - progress.forecast_steps for _, job, progress in under_way]
    try:
        steps = min(*remaining, steps)
        inputs = _next_inputs([progress for _, _, progress in under_way], steps)
        done = np.array([progress.forecast_steps for _, _, progress in under_way])
        forecast, carries = slab.forecaster.roll_out(carries, steps, inputs, done)
    except Exception as error:
        log.exception("a forecast of %d sessions raised", len(rolling))
        for _, _, job in rolling:
            batch.refuse(job, StepFailed(f"the forecast failed: {error}"))
        return
    for i, (row, job, progress) in enumerate(under_way):
        if not np.isfinite(forecast[i]).all():
            batch.refuse(
                job, StepFailed("the forecast produced NaN or infinity; the session was not advanced")
            )
            continue
        progress.forecast.append(forecast[i])
        progress.forecast_steps += steps
        progress.forecast_carry = carries[i].copy()
        if progress.forecast_steps < _horizon(job):
            batch.unfinished.append(job)
        elif isinstance(job, Advance):
            _finish(slab, row, job, batch)
        else:
            _answer_forecast(slab, row, job, progress, batch)


def _next_inputs(under_way: Sequence[Progress], steps: int) -> Floats | None:
    """[batch, steps, inputs known ahead] of the next steps; None where the model has no such inputs."""
    inputs = [progress.future_inputs[progress.forecast_steps :][:steps] for progress in under_way
              if progress.future_inputs is not None]  # fmt: skip
    return np.stack(inputs) if inputs else None


def _answer_forecast(slab: Slab, row: int, job: Forecast, progress: Progress, batch: Batch) -> None:
    header = slab.headers[row : row + 1]
    outputs = {"forecast": np.concatenate(progress.forecast)}
    ends = forecast_interval(job.level, progress.carry, outputs["forecast"], slab.forecaster)
    outputs |= zip(("lower", "upper"), ends, strict=False)
    outputs |= forecast_quantiles(QUANTILE, job.levels, progress.carry, outputs["forecast"], slab.forecaster)
    clock = slab.forecaster.layout.clock(progress.carry)
    if clock is not None:
        outputs["times"] = forecast_times(slab.forecaster, clock, len(outputs["forecast"]))
    position, epoch = scalar(header, "position"), scalar(header, "epoch")
    model, ports = slab.forecaster.artifact.name, slab.output_ports
    batch.final_answers.append((job, ChunkAnswer(job.session, model, position, epoch, False, outputs, ports)))


def _finish(slab: Slab, row: int, job: Advance, batch: Batch) -> None:
    """Put the answer of a whole chunk together."""
    progress = job.progress
    if progress is None:
        return
    answer = {"predictions": np.concatenate(progress.predictions)}
    for name in progress.extra_outputs[0]:
        answer[name] = np.concatenate([part[name] for part in progress.extra_outputs])
    if COVERS in answer:  # from the first sample of the first slice to the last of the last
        answer[COVERS] = answer[COVERS].reshape(1, -1)[:, [0, -1]]
    if job.horizon:
        answer["forecast"] = np.concatenate(progress.forecast)
        level = None if job.options is None else job.options.level
        ends = forecast_interval(level, progress.carry, answer["forecast"], slab.forecaster)
        answer |= zip(("forecast_lower", "forecast_upper"), ends, strict=False)
        levels = () if job.options is None else job.options.levels
        answer |= forecast_quantiles(
            FORECAST_QUANTILE, levels, progress.carry, answer["forecast"], slab.forecaster
        )
    if slab.forecaster.artifact.time_features:
        advance_clock(slab.forecaster, progress.carry, job.clock, len(job.observations))
    for scores in progress.scores:
        batch.add_scores(slab.forecaster, scores)
    times = times_of_chunk(slab.forecaster, job.options, progress.carry, len(job.observations))
    finished = FinishedChunk(row, job, progress, answer, times)
    batch.finished_chunks.setdefault(slab, []).append(finished)


def stage_finished(
    slab: Slab, chunks: Sequence[FinishedChunk], batch: Batch, recent_bytes: int, alert: Alert | None
) -> None:
    """Stage the sessions of whole chunks, in columns.

    Parameters
    ----------
    alert : of sessions that have none of their own
    """
    rows = np.array([chunk.row for chunk in chunks])
    before = slab.read(rows)
    resets = [i for i, chunk in enumerate(chunks) if chunk.job.reset]
    if resets:
        reset_sessions(before, slab.forecaster, resets)
    size = slab.forecaster.short_answer_size
    after = advance_rows(
        before,
        np.stack([chunk.progress.carry for chunk in chunks]),
        np.array([len(chunk.job.observations) for chunk in chunks]),
        np.array([chunk.progress.digest for chunk in chunks], np.uint64),
        _last_predictions(chunks, size),
        {i: chunk.answer for i, chunk in enumerate(chunks)},
        batch.now,
        recent_bytes,
    )
    sessions = [chunk.job.session for chunk in chunks]
    scores = [part for chunk in chunks for part in chunk.progress.scores]
    if (after.notes or alert is not None) and None not in scores:
        lengths = np.array([len(chunk.job.observations) for chunk in chunks])
        joined = Scores.join([part for part in scores if part is not None])
        find_alerts(slab, sessions, after, lengths, joined, alert, batch)
    batch.stage(slab, sessions, rows, after, observed_by_finished(slab, chunks))
    model, ports = slab.forecaster.artifact.name, slab.output_ports
    columns = after.headers["position"].tolist(), after.headers["epoch"].tolist()
    for i, (chunk, position, epoch) in enumerate(zip(chunks, *columns, strict=True)):
        job = chunk.job
        if job.delete:
            batch.delete(slab, job.session, after, i)
        outputs = with_times(chunk.answer, slab.forecaster, chunk.times)
        moved = ChunkAnswer(job.session, model, position, epoch, False, outputs, ports)
        batch.answers_if_committed.append((job, moved))


def _last_predictions(chunks: Sequence[FinishedChunk], size: int) -> Floats:
    """[chunks, size], what the sessions' headers hold of the last prediction of each."""
    if not size:
        return np.empty((len(chunks), 0), np.float32)
    last = np.stack([chunk.answer["predictions"][-1, :size] for chunk in chunks])
    return last.astype(np.float32, copy=False)


def _horizon(job: Advance | Forecast) -> int:
    return job.horizon if isinstance(job, Advance) else job.steps
