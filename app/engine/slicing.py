"""Chunks too long for one wave, and forecasts: they move on by a slice a wave, their neighbours beside them.

The half-way carry goes with the job, and the session is set aside: what is resident, and what is staged,
is always the end of a whole chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from app.engine.batch import Batch, SessionExpired, advance_rows
from app.engine.extra_outputs import extra_outputs, forecast_interval
from app.engine.inputs import advance_clock, clock_after, future_inputs
from app.errors import StepFailed
from app.jobs.answers import ChunkAnswer
from app.jobs.jobs import Advance, Forecast, Progress
from app.session.digest import digests
from app.session.recent_answers import reset_sessions
from app.session.rows import scalar
from app.session.slab import Slab
from models.arrays import Floats
from models.forecaster import StepResult

log = logging.getLogger("carryover.engine")

Rolling = tuple[Slab, int, Advance | Forecast]


def begin(job: Advance, slab: Slab, row: int, batch: Batch) -> None:
    """The first wave of a long chunk: the only one that asks whether it is in step.

    Raises
    ------
    Late : the session has expired
    Unprocessable, CannotForecast : the forecast is not told what it has to know ahead
    """
    before = slab.read(np.array([row]))
    if before.headers["deadline"][0] < batch.now:
        raise SessionExpired
    digest = job.digest
    if digest is None:
        digest = int(digests(job.observations, np.array([len(job.observations)]), job.horizon)[0])
    mine = job.epoch is None or job.epoch == scalar(before.headers, "epoch")
    if not mine or job.at not in (None, scalar(before.headers, "position")):
        batch.replay_or_refuse(slab, job, before, 0, digest)
        return
    if job.reset:
        reset_sessions(before, slab.forecaster)
    job.progress = Progress(before.carries[0], digest)
    if job.horizon:
        now = clock_after(slab.forecaster, before.carries[0], job.clock, len(job.observations))
        future = None if job.options is None else job.options.future
        job.progress.future_inputs = future_inputs(slab.forecaster, now, job.horizon, future)
    batch.long.append((slab, row, job))


def finish_slice(
    slab: Slab, row: int, job: Advance, passed: StepResult, batch: Batch, recent_bytes: int
) -> None:
    """A slice of a long chunk was stepped."""
    progress = job.progress
    if progress is None:
        return
    predictions, carry = passed.predictions, passed.carries[0]
    stepped = job.observations[progress.offset :][: len(predictions)]
    more = extra_outputs(job.options, carry, stepped, predictions, passed.scores, slab.forecaster)
    progress.extra_outputs.append(more)
    progress.scores.append(passed.scores)
    progress.predictions.append(predictions)
    progress.offset += len(predictions)
    progress.carry = carry.copy()
    if progress.offset < len(job.observations):
        batch.unfinished.append(job)
    elif job.horizon:
        progress.forecast_carry = progress.carry
        batch.forecasts.append((slab, row, job))
    else:
        _stage(slab, row, job, batch, recent_bytes)


def roll(slab: Slab, rolling: Sequence[Rolling], steps: int, batch: Batch, recent_bytes: int) -> None:
    """Move every forecast of one slab on by the same slice, of at most so many steps."""
    carries = np.stack([job.progress.forecast_carry for _, _, job in rolling if job.progress])  # type: ignore[misc]
    left = [_horizon(job) - job.progress.forecast_steps for _, _, job in rolling if job.progress]
    try:
        steps = min(*left, steps)
        forecast, moved = slab.forecaster.roll_out(carries, steps, _ahead(rolling, steps))
    except Exception as error:
        log.exception("a forecast of %d sessions raised", len(rolling))
        for _, _, job in rolling:
            batch.refuse(job, StepFailed(f"the forecast failed: {error}"))
        return
    for i, (_, row, job) in enumerate(rolling):
        if not np.isfinite(forecast[i]).all():
            batch.refuse(job, StepFailed("the forecast left the finite numbers; the session did not move"))
        else:
            _rolled(slab, row, job, forecast[i], moved[i].copy(), batch, recent_bytes)


def _ahead(rolling: Sequence[Rolling], steps: int) -> Floats | None:
    """[batch, steps, inputs known ahead] of the next slice of each, where the model has such inputs."""
    told = [job.progress.future_inputs[job.progress.forecast_steps :][:steps] for _, _, job in rolling
            if job.progress is not None and job.progress.future_inputs is not None]  # fmt: skip
    return np.stack(told) if told else None


def _rolled(
    slab: Slab,
    row: int,
    job: Advance | Forecast,
    forecast: Floats,
    carry: Floats,
    batch: Batch,
    recent_bytes: int,
) -> None:
    progress = job.progress
    if progress is None:
        return
    progress.forecast.append(forecast)
    progress.forecast_steps += len(forecast)
    progress.forecast_carry = carry
    if progress.forecast_steps < _horizon(job):
        batch.unfinished.append(job)
    elif isinstance(job, Advance):
        _stage(slab, row, job, batch, recent_bytes)
    else:
        header = slab.headers[row : row + 1]
        answer = {"forecast": np.concatenate(progress.forecast)}
        ends = forecast_interval(job.level, progress.carry, answer["forecast"], slab.forecaster)
        answer |= zip(("lower", "upper"), ends, strict=False)
        position, epoch = scalar(header, "position"), scalar(header, "epoch")
        model = slab.forecaster.artifact.name
        batch.final_answers.append((job, ChunkAnswer(job.session, model, position, epoch, False, answer)))


def _stage(slab: Slab, row: int, job: Advance, batch: Batch, recent_bytes: int) -> None:
    progress = job.progress
    if progress is None:
        return
    answer = {"predictions": np.concatenate(progress.predictions)}
    for name in progress.extra_outputs[0]:
        answer[name] = np.concatenate([part[name] for part in progress.extra_outputs])
    if job.horizon:
        answer["forecast"] = np.concatenate(progress.forecast)
        level = None if job.options is None else job.options.level
        ends = forecast_interval(level, progress.carry, answer["forecast"], slab.forecaster)
        answer |= zip(("forecast_lower", "forecast_upper"), ends, strict=False)
    if slab.forecaster.artifact.time_features:
        advance_clock(slab.forecaster, progress.carry, job.clock, len(job.observations))
    rows = np.array([row])
    before = slab.read(rows)
    if job.reset:
        reset_sessions(before, slab.forecaster)
    after = advance_rows(
        before,
        progress.carry[None],
        np.array([len(job.observations)]),
        np.array([progress.digest], np.uint64),
        answer["predictions"][-1:],
        {0: answer},
        batch.now,
        recent_bytes,
    )
    batch.stage(slab, (job.session,), rows, after)
    for scores in progress.scores:
        batch.add_scores(slab.forecaster, scores)
    if job.delete:
        batch.delete(slab, job.session, after, 0)
    position, epoch = scalar(after.headers, "position"), scalar(after.headers, "epoch")
    model = slab.forecaster.artifact.name
    batch.provisional_answers.append((job, ChunkAnswer(job.session, model, position, epoch, False, answer)))


def _horizon(job: Advance | Forecast) -> int:
    return job.horizon if isinstance(job, Advance) else job.steps
