"""Chunks too long for one wave, and forecasts: they move on by a slice a wave, their neighbours beside them.

The half-way carry goes with the job, and the session is set aside: what is resident, and what is staged,
is always the end of a whole chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from app.answers import Advanced
from app.digest import digests
from app.errors import StepFailed
from app.jobs import Advance, Forecast, Progress
from app.recent import restart
from app.rows import Floats, scalar
from app.slab import Slab
from app.wave import Late, Wave, moved_on

log = logging.getLogger("carryover.engine")

Rolling = tuple[Slab, int, Advance | Forecast]


def begin(job: Advance, slab: Slab, row: int, wave: Wave) -> None:
    """The first wave of a long chunk: the only one that asks whether it is in step.

    Raises
    ------
    Late : the session has expired
    """
    before = slab.read(np.array([row]))
    if before.headers["deadline"][0] < wave.now:
        raise Late
    digest = int(digests(job.observations, np.array([len(job.observations)]), job.horizon)[0])
    mine = job.epoch is None or job.epoch == scalar(before.headers, "epoch")
    if not mine or job.at not in (None, scalar(before.headers, "position")):
        wave.settle(slab, job, before, 0, digest)
        return
    if job.reset:
        restart(before)
    job.progress = Progress(before.carries[0], digest)
    wave.long.append((slab, row, job))


def advanced(
    slab: Slab, row: int, job: Advance, predictions: Floats, carry: Floats, wave: Wave, recent_bytes: int
) -> None:
    """A slice of a long chunk was stepped."""
    progress = job.progress
    if progress is None:
        return
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
        forecast, moved = slab.forecaster.roll_out(carries, min(*left, steps))
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
        position, epoch = scalar(header, "position"), scalar(header, "epoch")
        model = slab.forecaster.artifact.name
        wave.settled.append((job, Advanced(job.session, model, position, epoch, False, answer)))


def _stage(slab: Slab, row: int, job: Advance, wave: Wave, recent_bytes: int) -> None:
    progress = job.progress
    if progress is None:
        return
    answer = {"predictions": np.concatenate(progress.predictions)}
    if job.horizon:
        answer["forecast"] = np.concatenate(progress.forecast)
    rows = np.array([row])
    before = slab.read(rows)
    if job.reset:
        restart(before)
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
    if job.delete:
        wave.end(slab, job.session, after, 0)
    position, epoch = scalar(after.headers, "position"), scalar(after.headers, "epoch")
    model = slab.forecaster.artifact.name
    wave.moved.append((job, Advanced(job.session, model, position, epoch, False, answer)))


def _horizon(job: Advance | Forecast) -> int:
    return job.horizon if isinstance(job, Advance) else job.steps
