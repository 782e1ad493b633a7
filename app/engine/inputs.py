"""What the numbers of a chunk with extras are to its model: gaps laid out, time features made.

Done when the job meets its session, because only then the model is known, and once: what was made stays with
the job, and its digest is that of what the client sent.
"""

from __future__ import annotations

import numpy as np

from app.errors import CannotForecast, Unprocessable
from app.jobs.jobs import Advance
from app.jobs.options import ChunkOptions, digest_with_options
from app.session.digest import digests
from app.session.slab import Slab
from models.arrays import Floats
from models.data import calendar
from models.forecaster import Forecaster


def prepare_inputs(job: Advance, slab: Slab, row: int) -> None:
    """Make the observations of `job` as wide as its model's, and check what it asks for.

    Always of what was sent: a job that is asked again may meet another session than the first time.

    Raises
    ------
    Unprocessable : it asks for what its session does not keep; a number is missing that nothing predicts;
        timestamps that are irregular, or of no use; names the row, and the column where there is one
    """
    options, forecaster = job.options, slab.forecaster
    if options is None:
        return
    if options.wants_extra_outputs:
        check_intervals(options.level, forecaster)
    observations = job.raw_observations = (
        job.observations if job.raw_observations is None else job.raw_observations
    )
    sent = digests(np.ascontiguousarray(observations), np.array([len(observations)]), job.horizon)
    job.digest, job.clock = digest_with_options(int(sent[0]), job.horizon, options), None
    job.observations = _widened(job, slab, row, options)
    if options.gaps:
        _check_gaps(job.observations, forecaster)


def check_intervals(level: float | None, forecaster: Forecaster) -> None:
    """Refuse what sessions of this forecaster do not keep.

    Raises
    ------
    Unprocessable
    """
    if not forecaster.learning.tracks_errors:
        raise Unprocessable(
            "the session keeps neither intervals nor scores: its model does not, and it was not created with "
            '{"learning": {"intervals": true}}',
            field="score" if level is None else "level",
        )
    if level is not None and level not in forecaster.learning.levels:
        known = ", ".join(map(str, forecaster.learning.levels))
        raise Unprocessable(f"the session keeps intervals of {known}, not {level:g}", field="level")


def level_index(level: float, forecaster: Forecaster) -> int:
    """Where this level, of those that the forecaster's sessions keep, is among them; float32 will do."""
    return int(np.abs(np.array(forecaster.learning.levels) - level).argmin())


def future_inputs(
    forecaster: Forecaster, now: float | None, steps: int, future: Floats | None
) -> Floats | None:
    """[steps, inputs known ahead] of a forecast, in the forecaster's order; None where there are none.

    Parameters
    ----------
    now : time of the last observation, seconds since 1970, if the session has told
    future : [steps, ...] of the artifact's `future` columns, as the client told

    Raises
    ------
    Unprocessable : it is not so many rows of so many columns
    CannotForecast : it is needed, and missing; or the session has told no time
    """
    artifact = forecaster.artifact
    _check_future(forecaster, steps, future)
    if not forecaster.future_inputs:
        return None
    known = dict(zip(artifact.future, np.empty((0, steps)) if future is None else future.T, strict=True))
    if artifact.time_features:
        step = artifact.interval_seconds
        if now is None or step is None:
            raise CannotForecast(
                "the session has told no timestamps, which a forecast goes on from", missing=[]
            )
        made = calendar.encode(artifact.time_features, now + step * np.arange(1.0, steps + 1))
        known |= dict(zip(calendar.columns(artifact.time_features), made.T, strict=True))
    return np.stack([known[artifact.columns[i]] for i in forecaster.future_inputs], axis=1).astype(np.float32)


def clock_after(forecaster: Forecaster, carry: Floats, clock: float | None, length: int) -> float | None:
    """The time of a chunk's last row, in seconds since 1970: as told by `clock`, or counted on from the time
    that its session's `carry` tells, from before it; None where neither does."""
    before = forecaster.clock(carry)
    if clock is not None or before is None:
        return clock
    return before + (forecaster.artifact.interval_seconds or 0) * length


def advance_clock(forecaster: Forecaster, carry: Floats, clock: float | None, length: int) -> None:
    """The session of this carry has observed so many rows more; in place."""
    seconds = clock_after(forecaster, carry, clock, length)
    if seconds is not None:
        forecaster.set_clock(carry, seconds)


def _check_future(forecaster: Forecaster, steps: int, future: Floats | None) -> None:
    names = forecaster.artifact.future
    if future is None and names:
        told = ", ".join(names)
        raise CannotForecast(f"a forecast of this model needs the future of {told}", missing=list(names))
    if future is not None and future.shape != (steps, len(names)):
        raise Unprocessable(
            f"future must be {steps} rows of {len(names)} numbers ({', '.join(names) or 'none'}), "
            f"not {' x '.join(map(str, future.shape))}",
            field="future",
        )


def _widened(job: Advance, slab: Slab, row: int, options: ChunkOptions) -> Floats:
    """[steps, inputs], where what was sent allows it: a gap filled with NaN, the time features made."""
    artifact, observations = (
        slab.forecaster.artifact,
        job.observations if job.raw_observations is None else job.raw_observations,
    )
    blank = observations.shape[1] == 0
    if blank:
        width = slab.forecaster.input_size - artifact.time_input_count
        observations = np.full((len(observations), width), np.nan, np.float32)
    if artifact.time_features and (blank or options.timestamps is not None):
        return np.hstack([observations, _times(job, slab, row, options)])
    if options.timestamps is not None:
        raise Unprocessable(f"model {artifact.name!r} makes nothing of timestamps", field="timestamps")
    return observations


def _times(job: Advance, slab: Slab, row: int, options: ChunkOptions) -> Floats:
    """The columns made from the chunk's times: told, or for a gap counted on from the session's own."""
    artifact, length = slab.forecaster.artifact, len(job.observations)
    step = artifact.interval_seconds or 0.0
    before = None if job.reset else slab.forecaster.clock(slab.carries[row])
    told = options.timestamps
    if told is None:
        if before is None:
            raise Unprocessable(
                "the session has told no timestamps, which a gap could go on from", field="skip"
            )
        told = before + step * np.arange(1.0, length + 1)
    if len(told) != length:
        raise Unprocessable(f"there are {len(told)} timestamps for {length} observations", field="timestamps")
    odd = calendar.first_irregular(told, step, before if _in_step(job, slab, row) else None)
    if odd is not None:
        raise Unprocessable(
            f"row {odd} is not {step:g} s behind the one before it, as the model's stream is", row=odd
        )
    job.clock = float(told[-1])
    return calendar.encode(artifact.time_features, told)


def _in_step(job: Advance, slab: Slab, row: int) -> bool:
    """Whether the chunk would be applied. One that was is not compared with the clock that it moved on."""
    header = slab.headers[row]
    return bool(job.at in (None, header["position"]) and job.epoch in (None, header["epoch"]))


def _check_gaps(observations: Floats, forecaster: Forecaster) -> None:
    alone = [i for i, output in enumerate(forecaster.artifact.feedback) if output is None]
    if len(observations[0]) != forecaster.input_size or not alone:
        return  # a wrong width is told as such
    missing = np.argwhere(np.isnan(observations[:, alone]))
    if len(missing):
        row, column = int(missing[0, 0]), alone[int(missing[0, 1])]
        name = forecaster.artifact.columns[column]
        raise Unprocessable(
            f"row {row}, column {column} is missing, and nothing predicts {name!r}", row=row, column=column
        )
