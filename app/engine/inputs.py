"""Prepares the numbers of a chunk with options for its model. Gaps become NaN, and times become columns.

This is done at admission, because the model is not known before. The digest of such a chunk is computed from
the numbers that the client sent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from app.errors import CannotForecast, Unprocessable, list_names
from app.jobs.jobs import Advance
from app.jobs.options import ChunkOptions, digest_with_options
from app.session.digest import digests
from app.session.slab import Slab
from models.arrays import Floats, Numbers, Seconds
from models.artifact.served import ServedArtifact
from models.data import calendar
from models.forecaster import Forecaster, WrongRate


def prepare_inputs(job: Advance, slab: Slab, row: int) -> None:
    """Make the observations of `job` as wide as its model's inputs, and check its options.

    It always starts from the numbers that the client sent, because a job that runs again may find another
    session.

    Raises
    ------
    Unprocessable : the session keeps no such intervals or no surprise; a missing number is not predicted by
        anything; the timestamps are irregular, or the model takes none. Names the row, and the column if any.
    """
    options, forecaster = job.options, slab.forecaster
    if options is None:
        return
    if options.level is not None or options.score:
        check_intervals(options.level, forecaster)
    for level in options.levels:
        check_intervals(level, forecaster, "levels")
    if job.raw_observations is None:
        job.raw_observations = job.observations
    raw = job.raw_observations
    if options.inputs is not None:
        raw = _by_name(options.inputs, forecaster.artifact, timed=options.timestamps is not None)
    raw = forecaster.numbers(raw)
    job.digest = None
    if options.is_part_of_digest:
        sent = digests(np.ascontiguousarray(raw), np.array([len(raw)]), job.horizon)
        job.digest = digest_with_options(int(sent[0]), job.horizon, options)
    job.observations, job.clock = _model_inputs(raw, options, job, slab, row)
    if options.gaps:
        _check_gaps(job.observations, forecaster)


def check_intervals(level: float | None, forecaster: Forecaster, field: str = "level") -> None:
    """Refuse intervals or surprise that sessions of this forecaster do not keep.

    Parameters
    ----------
    level : level of the intervals; None for the surprise alone
    field : of the request, which has the level

    Raises
    ------
    Unprocessable
    """
    if not forecaster.learning.tracks_errors:
        raise Unprocessable(
            "the session keeps neither intervals nor surprise: its model does not, and it was not created "
            'with {"learning": {"intervals": true}}',
            field="score" if level is None else field,
        )
    if level is not None and level not in forecaster.learning.levels:
        known = ", ".join(map(str, forecaster.learning.levels))
        raise Unprocessable(f"the session keeps intervals of {known}, not {level:g}", field=field)


def set_rate(forecaster: Forecaster, carry: Floats, rate: int) -> None:
    """Say that a session's samples have this rate, in its carry, [carry_size]; in place.

    Raises
    ------
    Unprocessable : they cannot
    """
    if forecaster.samples is None:
        raise Unprocessable(
            f"model {forecaster.artifact.name!r} takes no samples, so a chunk has no rate", field="rate"
        )
    try:
        forecaster.samples.set_rate(carry, rate)
    except WrongRate as error:
        raise Unprocessable(str(error), field="rate") from None


def impossible_error(forecaster: Forecaster, observations: Numbers) -> Unprocessable:
    """The refusal of a chunk, [steps, inputs], with a number that its input cannot hold."""
    broken = forecaster.broken_rules(observations)
    row = 0 if broken is None else int(broken.argmax())
    return Unprocessable(f"row {row}: {forecaster.complaint(observations[row])}", row=row)


def level_index(level: float, forecaster: Forecaster) -> int:
    """Index of this level among those that the forecaster's sessions keep; it may be rounded to float32."""
    return int(np.abs(np.array(forecaster.learning.levels) - level).argmin())


def future_inputs(
    forecaster: Forecaster, now: float | None, steps: int, future: Numbers | None
) -> Floats | None:
    """[steps, inputs known ahead] of a forecast, in the forecaster's order; None where it has no such inputs.

    Parameters
    ----------
    now : time of the last observation, seconds since 1970; None if the session has no timestamps
    future : [steps, future columns of the artifact], from the client

    Raises
    ------
    Unprocessable : `future` has another shape
    CannotForecast : `future` is needed and missing, or the session has no timestamps
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
                "the session has no timestamps yet, and a forecast of this model continues from the last",
                missing=[],
            )
        features = calendar.encode(artifact.time_features, now + step * np.arange(1.0, steps + 1))
        known |= dict(zip(calendar.columns(artifact.time_features), features.T, strict=True))
    return np.stack([known[artifact.columns[i]] for i in forecaster.future_inputs], axis=1).astype(np.float32)


def clock_after(forecaster: Forecaster, carry: Floats, clock: float | None, length: int) -> float | None:
    """The time of a chunk's last row, seconds since 1970; None where it is not known.

    Parameters
    ----------
    carry : [carry_size], of the session before the chunk
    clock : the time that the chunk's own timestamps give, if it has any
    length : rows of the chunk
    """
    before = forecaster.layout.clock(carry)
    if clock is not None or before is None:
        return clock
    return before + (forecaster.artifact.interval_seconds or 0) * length


def advance_clock(forecaster: Forecaster, carry: Floats, clock: float | None, length: int) -> None:
    """Move the time in a session's carry, [carry_size], on by `length` rows; in place."""
    seconds = clock_after(forecaster, carry, clock, length)
    if seconds is not None:
        forecaster.layout.set_clock(carry, seconds)


def _check_future(forecaster: Forecaster, steps: int, future: Numbers | None) -> None:
    names = forecaster.artifact.future
    if future is None and names:
        raise CannotForecast(
            f"a forecast of this model needs the future of {', '.join(names)}", missing=list(names)
        )
    if future is not None and future.shape != (steps, len(names)):
        raise Unprocessable(
            f"future must be {steps} rows of {len(names)} numbers ({', '.join(names) or 'none'}), "
            f"not {' x '.join(map(str, future.shape))}",
            field="future",
        )


def _by_name(inputs: Mapping[str, Numbers], artifact: ServedArtifact, *, timed: bool) -> Numbers:
    """[steps, inputs] of numbers by name, [steps, ...] each; time columns are left out where `timed`."""
    ports = artifact.listed_inputs
    if timed:
        ports = ports[: len(ports) - artifact.time_input_count]
    for name in sorted(inputs.keys() ^ {port.name for port in ports}):
        problem = f"there is no input {name[:80]!r}" if name in inputs else f"the input {name!r} is missing"
        expected = list_names([port.name for port in ports])
        raise Unprocessable(
            f"{problem}; model {artifact.name!r} takes {expected}, the chunk has {list_names(list(inputs))}",
            field="inputs",
        )
    columns = []
    for port in ports:
        numbers = inputs[port.name]
        # A single number may stand for a list of one.
        if numbers.shape[1:] != port.shape and not (port.size == 1 and numbers.ndim == 1):
            raise Unprocessable(
                f"an observation of input {port.name!r} has the shape {list(port.shape)}, "
                f"not {list(numbers.shape[1:])}",
                field="inputs",
            )
        columns.append(numbers.reshape(len(numbers), port.size))
    return np.concatenate(columns, axis=1)


def _model_inputs(
    raw: Numbers, options: ChunkOptions, job: Advance, slab: Slab, row: int
) -> tuple[Numbers, float | None]:
    """[steps, inputs] with missing numbers as NaN and the time columns added; and the time of the last row.

    Observations of another width than the model's stay as they are, and are refused later.
    """
    artifact, observations = slab.forecaster.artifact, raw
    is_gap = raw.shape[1] == 0
    if is_gap:
        width = slab.forecaster.input_size - artifact.time_input_count
        observations = np.full((len(raw), width), np.nan, slab.forecaster.input_type)
    if artifact.time_features and (is_gap or options.timestamps is not None):
        times = _times(len(raw), options, job, slab, row)
        return np.hstack([observations, calendar.encode(artifact.time_features, times)]), float(times[-1])
    if options.timestamps is not None:
        raise Unprocessable(f"model {artifact.name!r} takes no timestamps", field="timestamps")
    return observations, None


def _times(length: int, options: ChunkOptions, job: Advance, slab: Slab, row: int) -> Seconds:
    """[steps], the chunk's timestamps; for a gap without timestamps, the times after the session's last."""
    step = slab.forecaster.artifact.interval_seconds or 0.0
    before = None if job.reset else slab.forecaster.layout.clock(slab.carries[row])
    times = options.timestamps
    if times is None:
        if before is None:
            raise Unprocessable(
                "the session has no timestamps yet, so a gap needs timestamps of its own", field="skip"
            )
        times = before + step * np.arange(1.0, length + 1)
    if len(times) != length:
        raise Unprocessable(
            f"there are {len(times)} timestamps for {length} observations", field="timestamps"
        )
    # A replayed chunk is not compared with the time that it set itself.
    irregular = calendar.first_irregular(times, step, before if job.is_in_step(slab.headers[row]) else None)
    if irregular is not None:
        raise Unprocessable(
            f"row {irregular} is not {step:g} s after the row before it, as this model expects", row=irregular
        )
    return times


def _check_gaps(observations: Numbers, forecaster: Forecaster) -> None:
    unpredicted = [i for i, output in enumerate(forecaster.artifact.predicted_by) if output is None]
    if len(observations[0]) != forecaster.input_size or not unpredicted:
        return  # a wrong width is refused later, with its own message
    missing = np.argwhere(np.isnan(observations[:, unpredicted]))
    if len(missing):
        row, column = int(missing[0, 0]), unpredicted[int(missing[0, 1])]
        name = forecaster.artifact.columns[column]
        raise Unprocessable(
            f"row {row}, column {column} is missing, and nothing predicts {name!r}", row=row, column=column
        )
