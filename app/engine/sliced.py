"""Chunks too long for one wave, and forecasts: they move on by a slice a wave, their neighbours beside them.

The half-way carry goes with the job, and the session is set aside: what is resident, and what is staged,
is always the end of a whole chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from app.engine.extra_outputs import band, findings
from app.engine.inputs import ahead, clock_behind, move_clock
from app.engine.wave import Late, Wave, moved_on
from app.errors import StepFailed
from app.jobs.answers import Advanced
from app.jobs.jobs import Advance, Forecast, Progress
from app.session.digest import digests
from app.session.remembered import restart
from app.session.rows import Floats, scalar
from app.session.slab import Slab
from models.forecaster import Passed

log = logging.getLogger("carryover.engine")

Rolling = tuple[Slab, int, Advance | Forecast]


def begin(job: Advance, slab: Slab, row: int, wave: Wave) -> None:
    """The first wave of a long chunk: the only one that asks whether it is in step.

    Raises
    ------
    Late : the session has expired
    Unprocessable, CannotForecast : the forecast is not told what it has to know ahead
    """
    before = slab.read(np.array([row]))
    if before.headers["deadline"][0] < wave.now:
        raise Late
    digest = job.digest
    if digest is None:
        digest = int(digests(job.observations, np.array([len(job.observations)]), job.horizon)[0])
    mine = job.epoch is None or job.epoch == scalar(before.headers, "epoch")
    if not mine or job.at not in (None, scalar(before.headers, "position")):
        wave.settle(slab, job, before, 0, digest)
        return
    if job.reset:
        restart(before, slab.forecaster)
    job.progress = Progress(before.carries[0], digest)
    if job.horizon:
        now = clock_behind(slab.forecaster, before.carries[0], job.clock, len(job.observations))
        future = None if job.extras is None else job.extras.future
        job.progress.ahead = ahead(slab.forecaster, now, job.horizon, future)
    wave.long.append((slab, row, job))


def advanced(slab: Slab, row: int, job: Advance, passed: Passed, wave: Wave, recent_bytes: int) -> None:
    """A slice of a long chunk was stepped."""
    progress = job.progress
    if progress is None:
        return
    predictions, carry = passed.predictions, passed.carries[0]
    stepped = job.observations[progress.done :][: len(predictions)]
    more = findings(job.extras, carry, stepped, predictions, passed.judged, slab.forecaster)
    progress.findings.append(more)
    progress.judged.append(passed.judged)
    progress.predictions.append(predictions)
    progress.done += len(predictions)
    progress.carry = carry.copy()
    if progress.done < len(job.observations):
        wave.under_way.append(job)
    elif job.horizon:
        progress.rolling = progress.carry
        wave.rolling.append((slab, row, job))
    else:
        _stage(slab, row, job, wave, recent_bytes)


def roll(slab: Slab, rolling: Sequence[Rolling], steps: int, wave: Wave, recent_bytes: int) -> None:
    """Move every forecast of one slab on by the same slice, of at most so many steps."""
    carries = np.stack([job.progress.rolling for _, _, job in rolling if job.progress])  # type: ignore[misc]
    left = [_horizon(job) - job.progress.rolled for _, _, job in rolling if job.progress]
    try:
        steps = min(*left, steps)
        forecast, moved = slab.forecaster.roll_out(carries, steps, _ahead(rolling, steps))
    except Exception as error:
        log.exception("a forecast of %d sessions raised", len(rolling))
        for _, _, job in rolling:
            wave.refuse(job, StepFailed(f"the forecast failed: {error}"))
        return
    for i, (_, row, job) in enumerate(rolling):
        if not np.isfinite(forecast[i]).all():
            wave.refuse(job, StepFailed("the forecast left the finite numbers; the session did not move"))
        else:
            _rolled(slab, row, job, forecast[i], moved[i].copy(), wave, recent_bytes)


def _ahead(rolling: Sequence[Rolling], steps: int) -> Floats | None:
    """[batch, steps, inputs known ahead] of the next slice of each, where the model has such inputs."""
    told = [job.progress.ahead[job.progress.rolled :][:steps] for _, _, job in rolling
            if job.progress is not None and job.progress.ahead is not None]  # fmt: skip
    return np.stack(told) if told else None


def _rolled(
    slab: Slab,
    row: int,
    job: Advance | Forecast,
    forecast: Floats,
    carry: Floats,
    wave: Wave,
    recent_bytes: int,
) -> None:
    progress = job.progress
    if progress is None:
        return
    progress.forecast.append(forecast)
    progress.rolled += len(forecast)
    progress.rolling = carry
    if progress.rolled < _horizon(job):
        wave.under_way.append(job)
    elif isinstance(job, Advance):
        _stage(slab, row, job, wave, recent_bytes)
    else:
        header = slab.headers[row : row + 1]
        answer = {"forecast": np.concatenate(progress.forecast)}
        ends = band(job.level, progress.carry, answer["forecast"], slab.forecaster)
        answer |= zip(("lower", "upper"), ends, strict=False)
        position, epoch = scalar(header, "position"), scalar(header, "epoch")
        model = slab.forecaster.artifact.name
        wave.settled.append((job, Advanced(job.session, model, position, epoch, False, answer)))


def _stage(slab: Slab, row: int, job: Advance, wave: Wave, recent_bytes: int) -> None:
    progress = job.progress
    if progress is None:
        return
    answer = {"predictions": np.concatenate(progress.predictions)}
    for name in progress.findings[0]:
        answer[name] = np.concatenate([part[name] for part in progress.findings])
    if job.horizon:
        answer["forecast"] = np.concatenate(progress.forecast)
        level = None if job.extras is None else job.extras.level
        ends = band(level, progress.carry, answer["forecast"], slab.forecaster)
        answer |= zip(("forecast_lower", "forecast_upper"), ends, strict=False)
    if slab.forecaster.artifact.time_features:
        move_clock(slab.forecaster, progress.carry, job.clock, len(job.observations))
    rows = np.array([row])
    before = slab.read(rows)
    if job.reset:
        restart(before, slab.forecaster)
    after = moved_on(
        before,
        progress.carry[None],
        np.array([len(job.observations)]),
        np.array([progress.digest], np.uint64),
        answer["predictions"][-1:],
        {0: answer},
        wave.now,
        recent_bytes,
    )
    wave.stage(slab, (job.session,), rows, after)
    for judged in progress.judged:
        wave.judge(slab.forecaster, judged)
    if job.delete:
        wave.end(slab, job.session, after, 0)
    position, epoch = scalar(after.headers, "position"), scalar(after.headers, "epoch")
    model = slab.forecaster.artifact.name
    wave.moved.append((job, Advanced(job.session, model, position, epoch, False, answer)))


def _horizon(job: Advance | Forecast) -> int:
    return job.horizon if isinstance(job, Advance) else job.steps
