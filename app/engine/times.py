"""The times of observations and of what is predicted, for sessions that have timestamps.

Times are seconds since 1970. An answer has the time that each prediction is for, one step behind its
observation. Times are not remembered with an answer: they follow from the session's clock.
"""

from __future__ import annotations

import numpy as np

from app.jobs.options import ChunkOptions
from app.session.rows import Answer
from models.arrays import Floats, Seconds
from models.forecaster import Forecaster


def times_of_last(forecaster: Forecaster, carry: Floats, length: int, later: int = 0) -> Seconds | None:
    """[length], the times of a session's last observations; None if it has no timestamps.

    Parameters
    ----------
    carry : [carry_size], of the session
    later : observations that the session has made after them
    """
    clock = forecaster.layout.clock(carry)
    if clock is None:
        return None
    return clock - _step(forecaster) * np.arange(later + length - 1.0, later - 1.0, -1.0)


def times_of_chunk(
    forecaster: Forecaster, options: ChunkOptions | None, carry: Floats, length: int, later: int = 0
) -> Seconds | None:
    """As `times_of_last`; if the chunk has timestamps of its own, those."""
    if options is not None and options.timestamps is not None:
        return options.timestamps
    return times_of_last(forecaster, carry, length, later)


def with_times(answer: Answer, forecaster: Forecaster, times: Seconds | None) -> Answer:
    """The answer to a chunk with the times that its predictions and its forecast are for, [steps, 1] each.

    Parameters
    ----------
    times : [steps], of the chunk's observations; None: the answer stays as it is
    """
    if times is None:
        return answer
    answer = {**answer, "times": times[:, None] + _step(forecaster)}
    if "forecast" in answer:
        answer["forecast_times"] = forecast_times(forecaster, float(times[-1]), len(answer["forecast"]))
    return answer


def forecast_times(forecaster: Forecaster, clock: float, steps: int) -> Seconds:
    """[steps, 1], the times that a forecast behind an observation at this time is for."""
    return clock + _step(forecaster) * np.arange(1.0, steps + 1)[:, None]


def _step(forecaster: Forecaster) -> float:
    return forecaster.artifact.interval_seconds or 0.0
